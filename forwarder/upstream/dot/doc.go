// SPDX-License-Identifier: Apache-2.0

// Package dot is the transport of DNS over TLS (RFC 7858, RFC 8310). It is used by
// sotto/forwarder/upstream, which selects servers, and depends on
// sotto/forwarder/upstream/secure, which opens authenticated connections,
// sotto/forwarder/upstream/conns, which keeps them, sotto/forwarder/upstream/transport and
// sotto/forwarder/wire.
//
// A [Pool] holds the connections to one server: usually one, and a second one while the
// first is busy. All queries share them. Queries are pipelined, those that are pending
// at the same time leave in one system call, and replies are accepted in any order (RFC
// 7766 §6.2.1.1), each matched by ID and question.
//
// What it promises:
//
//   - No query is written before the server is authenticated on this very connection,
//     resumed or not. Only the profile Opportunistic accepts other servers, and reports
//     them.
//   - A connection that proves dead, or that the server closes with queries in flight,
//     does not fail these queries: they are sent again on another one. A name for which
//     the server closes the connection does not make others fail (quarantine.go).
//   - Connections are kept open, and reopened with a resumed session before a query needs
//     them ([Pool.Maintain]). They are closed shortly before the server would close them
//     (RFC 7828), and replaced when they reach their maximum age or have carried as many
//     queries as the server appears to accept.
//
// These parts are pure: framing (frame.go), the table of queries in flight
// (inflight.go) and a server's query limit (limit.go). A query is written by its caller's
// goroutine if the connection is otherwise unused (write.go). Each connection has two
// goroutines: a reader (conn.go, lifetime.go) and a writer.
package dot
