// SPDX-License-Identifier: Apache-2.0

// Package ednstest provides the queries of ISC's EDNS compliance tester and checks the
// replies against RFC 1035, 6840 and 6891: no OPT record for clients without EDNS;
// BADVERS and no answer for an unknown version; unknown options and flags are ignored and
// not echoed, but a cookie gets a server cookie (RFC 7873); DO is echoed; NOTIMP for an unknown opcode; no reply above the size that
// the client advertised.
//
// The names in the questions are those of a [sotto/internal/dnstest.Zone]. Callers choose
// the transport.
package ednstest
