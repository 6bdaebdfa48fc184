// SPDX-License-Identifier: Apache-2.0

// Package nat exempts an instance's virtual addresses from the address translation
// of the host.
//
// A host may redirect DNS with a nat rule such as "udp dport 53 dnat to 10.54.0.2". Such a
// rule also matches a query whose destination a hook has replaced with a virtual address,
// and would send the query to the address in the rule. A [Table] is one nftables table per
// family with two nat chains. They run before all other nat chains and translate the
// destination of such a packet to the same address. Netfilter translates a connection only
// once (nf_nat_initialized), so no later chain applies to it, neither of nftables nor of
// iptables-legacy. Everything else works as before: connection tracking, filter rules,
// source translation.
//
// A nat chain enables connection tracking for its family in the whole network namespace.
// Therefore the table of a family exists only while other programs have nat chains for that
// family, which enable it anyway.
//
// The table outlives its process, like the hooks. The next process of the instance adopts
// it by its name, or [Remove] removes it.
//
// Alternatives considered: redirecting on ingress of the container's link (bypasses filter rules,
// and opens isolated networks such as Docker's `--internal`); a listener port other than 53
// (blocked by firewalls that allow port 53 only, and still matched by rules without a port);
// asking connection tracking for the original destination (kfuncs since Linux 6.0 only, and too
// late); dropping (no DNS for containers on such hosts).
//
// Only this package and filters import github.com/google/nftables.
package nat
