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
//     the address and port that the query was sent to. Over UDP each query has a random
//     ID, and each socket a random port (RFC 5452). Too many replies that do not match
//     end a query.
//   - [Config].Control is called for every socket before it connects.
//   - Every operation ends at the deadline or when the context is cancelled. No two queries
//     in flight share a socket.
//   - A failure is an [*Error] whose EDE explains it.
//
// TCP connections are not reused: they are needed only for transfers and truncated replies,
// which are rare, and sharing one would mix the queries of workloads.
//
// # Reuse of UDP sockets
//
// Each new source port is another entry in connection tracking, for 30 seconds, on this
// machine and at every NAT on the path. So a socket (pool.go) sends several queries, one
// after the other, to one nameserver for one owner, but only as long as that does not help
// an attacker who cannot see the traffic:
//
//   - It sends 16 to 64 queries (the number is random) within one second of its opening. The
//     side channels of the SAD DNS attacks need about that long to find an open port. Besides,
//     connection tracking keeps an entry for longer once it is used after two seconds.
//   - It has at most one query in flight, so there is no birthday attack, and each query has a
//     new random ID. Of several idle sockets one is chosen at random.
//   - It is closed at once after anything unexpected: a datagram that is not the reply, also
//     while idle, an ICMP error, a timeout, a cancelled or resent query, after which a late
//     reply may follow, and a change of the network. A probe that reaches the open port thus
//     closes it. The query, if there is one in flight, is repeated once on a new socket with
//     another ID, as it also is if there is no reply when it would be resent: behind a load
//     balancer, the flow may belong to a server that has exited. An UPDATE must not be
//     repeated, so it always has a new socket.
//
// A forged datagram from an attacker who does not know the port is accepted with the same
// probability as if each query had a new socket: 1 of 2^16 IDs times 28,232 ports (Linux's
// default range), 5e-10. An attacker who knows the port, for example by ICMP redirects, whose
// side channel leaves no trace in the socket, or from /proc/net/udp, has one guess at the ID:
// 1 of 65,536, if the query in question is sent from that socket in the rest of its second. The
// first wrong guess that arrives closes the socket. With a search of one second per socket and
// never-ending queries that is an even chance after 13 hours (0.69 * 65,536 s). An attacker who
// instead forges 100,000 datagrams per second without knowing a port has it after 4 hours, with
// and without reuse. On a new socket up to 64 datagrams that do not match are ignored, since its
// port is not known before the query. A local program that reads it in time thus has 64 guesses
// there, and one more on a reused socket.
//
// At most 32 idle sockets are kept for one nameserver and owner, 128 for all; they are closed
// if there are too many open files, and by a timer that exists only while there are any.
// Queries in flight are limited by the caller, as before.
//
// Sockets of [Config].Open, that is, those to local resolvers, are not reused. Open checks
// each time that the nameserver is still on this machine, and so that the query does not leave
// it. An idle socket would also keep the client's network namespace alive after its container.
//
// The code for matching replies (match.go), framing (frame.go) and the end of a transfer
// (end.go) does no I/O of its own.
package plain
