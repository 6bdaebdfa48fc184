// SPDX-License-Identifier: Apache-2.0

// Package nat exempts an instance's virtual addresses from the address translation
// of the host.
//
// A host may redirect DNS with a nat rule such as "udp dport 53 dnat to 10.54.0.2".
// Such a rule also matches a query that the hooks have rewritten to a virtual address,
// and the query would leave for the address that the rule names. A [Table] is an
// nftables table for each family with two nat chains that run before all others and
// give such a packet the translation to the address that it has. Netfilter translates a
// connection once (nf_nat_initialized), so it consults no later chain, of nftables or
// of iptables-legacy. Everything else works as before: connection tracking, filter
// rules, source translation.
//
// A nat chain switches connection tracking on for its family in the whole network
// namespace. The table of a family therefore exists only while the host has nat chains
// of others for that family, which have done so already.
//
// The table outlives its process, as the hooks do, and is known by its name: it is
// adopted by the next process of the instance, or removed by [Remove].
//
// This is the only package that imports github.com/google/nftables.
package nat
