// SPDX-License-Identifier: Apache-2.0

// Package forwarder answers DNS queries from a cache, from an upstream over TLS, or
// by relaying them to their original destination.
//
// It owns the listeners, and the coalescing of identical queries. The rest is in
// other packages: [sotto/forwarder/wire] reads and writes messages,
// [sotto/forwarder/cache] stores answers, [sotto/forwarder/admission] limits what
// clients may use, [sotto/forwarder/failures] remembers failed resolutions, and an [Exchanger] queries the upstream
// ([sotto/forwarder/upstream] implements it for DNS over TLS). The package does not
// depend on the kernel half: [Config.Origins] maps the local address that a query
// arrived at to the workload and the original destination. So all of it can be
// tested without root.
//
// It promises:
//
//   - Every query that can be parsed far enough to be answered gets exactly one
//     reply, from the address that it was sent to, within [Config.Timeout].
//   - A failure is answered with SERVFAIL and an Extended DNS Error (RFC 8914) that
//     gives the reason; no query falls back to plain DNS. Queries are sent in plain
//     DNS only where the [Router] returns [Plain].
//   - A failure is remembered for one to five seconds (RFC 9520): meanwhile the same query
//     is answered at once, and not sent upstream. A stale answer is used instead if there
//     is one.
//   - Identical queries in flight share one upstream query, called a flight.
//   - Resources are limited: pending queries, TCP connections and unsent replies each
//     have a limit. What exceeds it is refused or closed, not queued without limit.
//     No workload, or client where the workload is not known, can use so much that
//     others get nothing.
//
// A query passes through the package in one direction: a listener (udp.go, tcp.go)
// passes it to [Forwarder.answer], which replies immediately (policy, cache) or
// reports a miss. The listener then adds a pending query to a flight (flight.go) or
// relays it (relay.go), and the reply goes out through the listener's writer.
//
// There is no rate limit per client: one low enough to protect breaks a busy mail server, one
// high enough lets slow names fill the table; what is scarce is occupancy (compare unbound's
// `wait-limit`). Response rate limiting is for authoritative servers; stubs repeat the same name.
package forwarder
