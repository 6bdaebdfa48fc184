// SPDX-License-Identifier: Apache-2.0

// Package original sends queries to the nameserver that the client asked, over TLS. The choice of
// the user, or of the network, stays: only the transport changes. It is used by
// sotto/internal/daemon, and depends on sotto/forwarder/upstream, which carries the queries.
//
// For each nameserver an [Upstream] finds out once whether it offers an encrypted transport, in
// this order:
//
//	known   it is a public resolver whose name is known (the presets)
//	ddr     it designates a server (RFC 9462). This asks the nameserver for _dns.resolver.arpa in
//	        plain DNS, a query that says nothing about the user. The server has to have a
//	        certificate for the address of the nameserver (§4.2).
//	tls     it answers DNS over TLS on port 853, with a certificate for its address
//
// Each server has to answer a query for the root before it counts. What was found is remembered,
// for as long as the designation is valid; a failure for half a minute and then longer, up to half
// an hour. A change of the network discards failures.
//
// Queries that arrive meanwhile wait for the same result, but leave time for the fallback. The
// fallback, another group, gets the queries for nameservers that offer nothing, or that fail.
// Without one these queries fail.
//
// Answers of different nameservers are never mixed: each has a scope of its own in the cache.
// Nameservers that are remembered, and so open groups, are limited; groups without queries are
// closed.
package original
