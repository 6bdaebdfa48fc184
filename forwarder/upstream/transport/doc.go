// SPDX-License-Identifier: Apache-2.0

// Package transport defines what a group of upstream servers and the transports that
// reach them have in common. It depends on the leaves sotto/forwarder/wire and
// sotto/forwarder/tap alone, and is imported by sotto/forwarder/upstream and by each
// transport, such as sotto/forwarder/upstream/dot.
//
// A [Transport] carries queries to one [Server] and owns the connections to it. It does
// not know of other servers: the group decides which server gets a query, when a server
// is backed off, and when a query is sent to a second one.
//
// The group gives a transport a [Config] and, with each query, a deadline and a
// [Waiter]. The transport blocks only in Waiter.Wait, so that the group can act while a
// reply is overdue, in the goroutine of the query. In return the transport reports to
// its [Observer] when bytes and replies arrive and when a dial fails, and counts the
// rest in [Stats].
//
// Errors are classified here ([ErrSilent], [DialError], [LostError], …) because the
// group decides by them whether a server has failed, and described here ([NewError])
// because clients receive the description as an Extended DNS Error (RFC 8914).
package transport
