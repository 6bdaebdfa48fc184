// SPDX-License-Identifier: Apache-2.0

// Package forwarder answers DNS queries from a cache or over TLS.
//
// It owns the listeners, the join between a query and its answer, and nothing
// else: bytes are read and written by [sotto/forwarder/wire], answers are kept
// by [sotto/forwarder/cache], and servers are asked by an [Exchanger], which
// [sotto/forwarder/upstream] has for DNS over TLS. It knows no kernel: who asked, and
// which nameserver was meant, is told by the function in [Config.Origins] from
// the local address that a query arrived at. All of it tests without root.
//
// What it promises:
//
//   - Every query that can be parsed far enough to be answered gets exactly one
//     reply, from the address that the query was sent to, within [Config.Timeout].
//   - A failure is SERVFAIL with an Extended DNS Error (RFC 8914) that says why;
//     nothing is ever asked in the clear.
//   - Identical questions in flight share one upstream query.
//   - Work is bounded: queries that wait for an upstream, TCP connections and
//     unsent replies each have a limit, and what is over it is refused or
//     closed, never queued without end. No workload, or client where none is known,
//     takes so much of it that others get none (shares.go).
//
// A query runs through the package in one direction: a listener (udp.go, tcp.go)
// hands it to [Forwarder.answer], which replies at once (policy, cache) or
// leaves a waiter with a flight (flight.go), whose end writes the reply through
// the waiter's outbox.
package forwarder
