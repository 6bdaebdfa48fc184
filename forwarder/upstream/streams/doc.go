// SPDX-License-Identifier: Apache-2.0

// Package streams contains the common parts of transports in which each query has a stream of
// its own: DNS over HTTPS (HTTP/2 and HTTP/3) and DNS over QUIC. It depends on
// sotto/forwarder/upstream/transport, sotto/forwarder/upstream/secure and
// sotto/forwarder/upstream/conns, which keeps the connections.
//
// A [Pool] is a transport.Transport: the connections to one server. A transport provides a
// function that opens a [Conn]. What the Pool promises:
//
//   - A connection that proves dead, is closed with queries in flight, or accepts no
//     further query (GOAWAY) does not fail these queries: they are sent again.
//   - A connection without a reply for too long gets no more queries. It is closed only if the
//     queries are not acknowledged either: otherwise late replies count.
//   - An error of one stream ([QueryError]) concerns its query alone.
//   - Replies to abandoned queries are waited for a while, because they show how slow the
//     server is; then their streams are canceled.
//   - A server that asks for a pause ([PauseError]) gets no query before it is over.
//
// A query needs one goroutine, which blocks in [Conn.RoundTrip]; its caller blocks in the
// transport.Waiter alone.
package streams
