// SPDX-License-Identifier: Apache-2.0

// Package ednstest has the questions that ISC's EDNS compliance tester asks of servers,
// for tests to ask, and checks that a reply is what RFC 1035, 6891 and 6840 say: who
// knows no EDNS gets none; an unknown version is BADVERS and nothing else; unknown
// options and flags are ignored and do not come back; DO comes back; an unknown opcode
// is NOTIMP; and no reply is longer than its client said.
//
// The names in them are those of a [sotto/internal/dnstest.Zone]. How a question is
// carried is the caller's business.
package ednstest
