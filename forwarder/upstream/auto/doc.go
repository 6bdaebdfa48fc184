// SPDX-License-Identifier: Apache-2.0

// Package auto is the transport of servers whose protocol is found by trial: DNS over QUIC,
// DNS over HTTPS (HTTP/3), DNS over TLS, DNS over HTTPS (HTTP/2), in this order. It owns a
// transport for each of them, made by a function of its user, sotto/forwarder/upstream, and
// depends on sotto/forwarder/upstream/transport alone.
//
// A trial sends a probe over each protocol, starting one after the other with a short head
// start (RFC 8305), and the first reply decides. Queries wait for a trial as they wait for a
// connection; none is sent over a protocol that did not prove to work, and none fails because
// one does not. The result is kept until
//
//   - no connection can be opened with it any more, or the server is silent for a second: a
//     trial of all protocols decides again, and the query that met the failure is sent again;
//   - a better protocol works: those are tried again in the background, after five minutes at
//     first, and after up to two hours while they fail;
//   - the network changes.
//
// All protocols authenticate the server in the same way, so that an attacker who blocks the
// better ones gains nothing but time.
package auto
