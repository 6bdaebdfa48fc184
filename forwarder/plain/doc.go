// SPDX-License-Identifier: Apache-2.0

// Package plain sends queries in plain DNS, over UDP and TCP, to their original
// destination. It is used only for queries for which a rule requires that: anyone on
// the path can read them and forge answers. Its caller is sotto/forwarder, which limits
// the queries in flight.
//
// Messages are sent unchanged except for the ID. So everything works that a client and
// its nameserver may use: EDNS and cookies, RD=0, NOTIFY (RFC 1996), UPDATE (RFC 2136),
// zone transfers ([Client.Transfer]), and signatures: TSIG carries the original ID for
// forwarders (RFC 8945 §4.2).
//
// It promises:
//
//   - A reply has the ID, the opcode and the question of its query, and came from
//     the address and port that the query was sent to. Over UDP each query has its own
//     port and ID, both random (RFC 5452). Too many replies that do not match end it.
//   - [Config].Control is called for every socket before it connects.
//   - Every operation ends at the deadline or when the context is cancelled. Each query
//     has one socket.
//   - A failure is an [*Error] whose EDE explains it.
//
// Sockets are not reused. With a new one for each query, an attacker has to guess each
// port anew; a pool with random ports would have to close and open as many. Nor are TCP
// connections: they are needed only for transfers and truncated replies, which are rare,
// and sharing one would mix the queries of workloads.
//
// The code for matching replies (match.go), framing (frame.go) and the end of a transfer
// (end.go) does no I/O of its own.
package plain
