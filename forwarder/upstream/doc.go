// SPDX-License-Identifier: Apache-2.0

// Package upstream asks DNS servers over TLS (RFC 7858, RFC 8310), and nothing
// but TLS: where a server cannot be authenticated there is no answer, unless the
// configuration names the profile [Opportunistic].
//
// A [Group] is a list of servers, asked as its [Policy] says. Each has few
// connections (one, and a second when the first is busy) that everybody shares:
// queries are pipelined, those that wait at the same time leave in one system call, and replies are taken in
// any order (RFC 7766 §6.2.1.1), each matched by ID and question. Connections
// are kept warm, and reopened with a resumed session before a query needs them.
// They are closed shortly before their server would (RFC 7828), and replaced when
// they grow old, or have carried as many queries as their server is seen to take.
// A server's several addresses are raced (RFC 8305).
//
// What it promises a caller of [Group.Exchange]:
//
//   - The reply has the question that was asked, and came from a server that was
//     authenticated on this very connection, resumed or not. (Opportunistic: where it
//     was not, that is in the log and in [Stats].)
//   - The deadline bounds everything: waiting for a connection, dial, handshake,
//     write and read.
//   - A connection that turns out dead, or is closed by its server with queries in
//     flight, is not the caller's trouble: they are sent again.
//   - A server that fails, or answers SERVFAIL, is not the last word while another
//     can be asked in time.
//   - A server that falls silent, on a connection or while one is opened, is not
//     waited for alone: within 225 ms another one is asked as well, and later
//     queries go elsewhere until it sends something. A name that takes long while
//     others are answered is no silence. Where a server is known to take longer
//     than that, its silence is too.
//   - A server that failed is tried again by a probe, not by a caller's query, as
//     long as another is well; and only while there are queries.
//   - Failure is an [*Error] whose EDE tells in words what to mend.
//
// The package knows nothing of clients, caches or rules, and is called by
// sotto/forwarder alone. What decides is pure: who is asked first (picker.go), when
// a reply is late and a server silent (meter.go, histogram.go), what hedging may
// cost (budget.go), back-off (health.go), framing (frame.go), the table of queries
// in flight (inflight.go), a server's query limit (limit.go) and the order of its
// addresses (addrs.go). A query goes through the servers in its caller's goroutine
// (exchange.go); only a second server beside the first costs another (race.go).
//
// # What a server may send
//
// A reply belongs to the query whose ID it has and whose question it repeats; nothing
// else of it decides. What comes otherwise:
//
//	another ID, another question, a reply twice    dropped; after 1,024 in a row the connection ends
//	no reply (QR=0), another opcode, a short frame the connection ends, and its queries are asked again
//	an error without a question                    taken as an answer to its ID, and asked elsewhere
//	records that cannot be read: counts that lie,
//	trailing bytes, loops, pointers ahead          asked elsewhere; SERVFAIL if nobody does better
//	a cut reply (TC=1)                             asked elsewhere; passed on if nobody does better
//	a message of 65,535 bytes                      read: there are no longer ones
//	bytes or replies to nobody that drip in        the query's time passes, and it is asked elsewhere
//	the end, a reset, silence, at any byte         asked again, at most once invisibly, and elsewhere
//
// The question is sent in the case that the client wrote it in, and compared without
// regard to it: an answer that came in over TLS has no need of more to tell it by.
//
// Owner names inside an answer are the resolver's word, as in any forwarder: what is
// cached is cached under the question that was asked, and under nothing that the reply
// says besides.
package upstream
