// SPDX-License-Identifier: Apache-2.0

// Package capture records what passes an interface, with a packet socket and
// no libpcap, and reads as much of it as Sotto's proofs need: addresses, ports,
// the question of a plain DNS message, the type of a TLS record.
//
// A capture is live when Start returns, holds all that passed before Stop was
// called, and fails at Stop when the kernel dropped a packet: a capture with
// holes proves nothing. It needs CAP_NET_RAW in the namespace.
package capture
