// SPDX-License-Identifier: Apache-2.0

// Package secure opens authenticated connections to one encrypted DNS server. It is used
// by the transports below sotto/forwarder/upstream and depends on
// sotto/forwarder/upstream/transport alone.
//
// It contains what all of them need, be it over TCP or QUIC:
//
//   - A [Verifier] authenticates the server (RFC 8310) by name, address and pins, and this
//     client to it. No connection is returned before that, resumed or not. Only the
//     profile Opportunistic accepts other servers, and reports them.
//   - [Dial] races the server's addresses (RFC 8305), each with one [Handshake]. It
//     repeats a handshake without what made it fail: a session of an outdated certificate,
//     or TCP Fast Open.
//   - TLS sessions are kept for each address ([Sessions]). Early data (0-RTT) is not sent.
//   - [Dialer.DialTLS] opens connections over TCP and TLS.
//
// The order of addresses (race.go) and the verification of certificates (verify.go) are
// pure.
package secure
