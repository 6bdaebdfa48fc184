// SPDX-License-Identifier: Apache-2.0

// Package failures remembers for which questions resolution failed (RFC 9520), so that
// neither upstreams nor clients pay for the same failure again and again. Its only caller is
// [sotto/forwarder].
//
// A failure is remembered for one second, and for twice as long each time it repeats, up to
// five seconds (RFC 9520 §3.2: at least one second). Each question of each scope has its
// own: a name that was not asked before is always tried, since what failed may be the name
// and not the upstream. A failure in which no server was even reached is remembered for one
// second each time, and forgotten as soon as a server of its scope replies.
//
// The current time is an argument. Memory is limited: a full table forgets any failure.
package failures
