// SPDX-License-Identifier: Apache-2.0

// Package upstream asks DNS servers over TLS (RFC 7858, RFC 8310), and nothing
// but TLS: where a server cannot be authenticated there is no answer.
//
// A [Group] is a list of servers. Each has few connections (one, and a second
// when the first is busy) that everybody shares: queries are pipelined, those
// that wait at the same time leave in one system call, and replies are taken in
// any order (RFC 7766 §6.2.1.1), each matched by ID and question. Connections
// are kept warm, and reopened with a resumed session before a query needs them.
//
// What it promises a caller of [Group.Exchange]:
//
//   - The reply has the question that was asked, and came from a server that was
//     authenticated on this very connection, resumed or not.
//   - The deadline bounds everything: waiting for a connection, dial, handshake,
//     write and read.
//   - A connection that turns out dead, or is closed by its server with queries in
//     flight, is not the caller's trouble: they are sent again.
//   - A server that fails, or answers SERVFAIL, is not the last word while another
//     can be asked in time.
//   - Failure is an [*Error] whose EDE tells in words what to mend.
//
// The package knows nothing of clients, caches or rules, and is called by
// sotto/forwarder alone. Who is asked first is decided by a pure function
// (picker.go), as are back-off (health.go), framing (frame.go) and the table of
// queries in flight (inflight.go).
package upstream
