// SPDX-License-Identifier: Apache-2.0

// Package plain carries queries in plain DNS, over UDP and TCP, to the nameserver
// that their client meant. It is for rules by which somebody asked for exactly
// that, and for nothing else: what it sends is read, and can be answered, by anyone
// on the way. Its caller is sotto/forwarder.
//
// Messages go out as they came, but for the ID. So everything passes that is
// between a client and its own nameserver: EDNS and cookies, RD=0, NOTIFY (RFC
// 1996), UPDATE (RFC 2136), zone transfers ([Client.Transfer]), and signatures: TSIG
// carries the original ID inside, for just this case (RFC 8945 §4.2).
//
// What it promises a caller:
//
//   - A reply has the ID, the opcode and the question of its query and came from
//     the address and port that was asked. Over UDP each query has a port and an ID
//     of its own, both random (RFC 5452); many replies that do not fit end it.
//   - Every socket went through [Config].Control before it connected.
//   - The deadline bounds everything; so does the context's end. At most
//     [Config].MaxInflight queries are under way, each with one socket, and a quarter
//     of them may be transfers.
//   - Failure is an [*Error] whose EDE tells in words what is wrong.
//
// Sockets are not kept. One a query is what makes each port a fresh guess for a
// forger, and a pool that kept ports random would have to close and open as many.
// TCP connections are as short: they are for transfers and for what was truncated,
// which is seldom, and one that is shared would mix the queries of workloads.
//
// What matches what (match.go), framing (frame.go) and the end of a transfer
// (ending.go) are pure.
package plain
