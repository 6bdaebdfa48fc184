// SPDX-License-Identifier: Apache-2.0

// Package upstream sends queries to groups of encrypted DNS servers. It selects servers;
// connections are the matter of the transports below it (dot, doh, doh3, doq, and auto, which
// owns one of each), which implement the interface in sotto/forwarder/upstream/transport.
// Servers that are known by name alone are resolved by sotto/forwarder/upstream/bootstrap
// through others; their identity, in statistics and in [Stats], is their name. A server that cannot be authenticated gets no query,
// unless the configuration names the profile [Opportunistic].
//
// A [Group] is a list of servers that are asked in the order of its policy ([order.Policy]). What it
// promises a caller of [Group.Exchange]:
//
//   - The reply has the question of the query, and came from a server that was
//     authenticated on this very connection, resumed or not. (If the profile Opportunistic
//     accepted another one, the log and [Stats] show it.)
//   - The deadline limits everything: waiting for a connection, dial, handshake, write and
//     read.
//   - A connection that is dead, or that its server closes with queries in flight, does
//     not fail these queries: they are sent again.
//   - A server that fails or replies SERVFAIL does not decide the result while another one
//     can be asked in time.
//   - If a server falls silent, on a connection or while one is being opened, another one
//     is asked as well within 225 ms, and later queries go elsewhere until it sends
//     something. A name that takes long while others are answered is not silence. The time
//     is longer for a server that is known to be slower.
//   - No server is given up before the deadline: a slow answer is better than none.
//   - A server that failed is tried again by a probe, not by a caller's query, as long as
//     another one is healthy; and only while there are queries.
//   - A failure is an [*Error], whose EDE describes the cause.
//
// The package does not depend on clients, caches or rules, and is called by
// sotto/forwarder alone. Decisions are pure, and in packages of their own: the order of servers
// (order), when a reply is late, a server silent, and how long it is backed off (health). The
// budget for hedging is in budget.go. A query goes through the servers in its caller's goroutine
// (request.go); only a second server asked at the same time needs another goroutine
// (parallel.go).
//
// # What a server may send
//
// A reply belongs to the query that has its ID and its question; nothing else in it decides
// that. Other input is handled as follows:
//
//	another ID, another question, a second reply   dropped; after 1,024 in a row the connection is closed
//	not a reply (QR=0), another opcode, a frame    the query with its ID and question fails: another
//	that is too short                              server is asked. Without such a query the message is
//	                                               dropped; from a server that has sent no reply yet,
//	                                               the connection is closed
//	SERVFAIL, REFUSED, FORMERR or NOTIMP without   taken as the reply to its ID; another server is asked
//	a question
//	another rcode without a question               the query with its ID fails: another server is asked
//	records that cannot be parsed: wrong counts,   another server is asked; SERVFAIL if none does
//	loops, forward pointers                        better
//	bytes after the last record                    discarded
//	FORMERR, NOTIMP or BADVERS to a query with     the query is sent again without OPT, and
//	OPT                                            later ones too for 15 minutes if that helps
//	a reply without OPT to a query with DO         another server is asked; passed on if none does better
//	a truncated reply (TC=1)                       another server is asked; SERVFAIL if none does better
//	a message of 65,535 bytes                      accepted: it is the maximum
//	single bytes, or replies to no query           the query's time passes, and another server is asked
//	a close, a reset, silence, at any byte         the query is sent again, and to another server
//	a close for each query for a certain name      that name gets a connection of its own, and fails
//
// The question is sent in the case in which the client wrote it, and compared without
// regard to case: a reply that arrived over TLS needs no further protection.
//
// Owner names in an answer are not checked, as in any forwarder. A reply is cached under
// the question of the query, and under nothing else that it contains.
package upstream
