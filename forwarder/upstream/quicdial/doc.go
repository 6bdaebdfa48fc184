// SPDX-License-Identifier: Apache-2.0

// Package quicdial opens authenticated QUIC connections to one server, for the transports
// DNS over HTTPS (HTTP/3) and DNS over QUIC. It depends on
// sotto/forwarder/upstream/secure, which authenticates the server and races its addresses,
// and on sotto/forwarder/upstream/transport.
//
// Each connection has a UDP socket of its own, connected to the server: a port where nothing
// listens is noticed at once, and only the server's packets are received. Early data (0-RTT)
// is not sent: an attacker could replay it (RFC 9250 §5.4).
package quicdial
