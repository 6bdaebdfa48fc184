// SPDX-License-Identifier: Apache-2.0

// Package dns64 makes IPv6 addresses for names that have IPv4 addresses only (RFC 6147), for
// clients that reach IPv4 through a translator (NAT64). An [Exchanger] is put around the servers
// of a group, below the cache, so that a cached answer costs nothing.
//
// It follows RFC 6147 as follows:
//
//   - An answer to AAAA without an address outside of ::ffff:0:0/96 (§5.1.4), or with an error
//     other than NXDOMAIN (§5.1.2), is followed by a query for A. Its CNAME and DNAME records are
//     kept, and its addresses are translated (§5.1.5, §5.1.6).
//   - If that query fails, or gets an error other than NXDOMAIN, the client gets that failure, and
//     not the negative answer (§5.1.3): it would be cached.
//   - The TTL of an address is that of the A record, and at most that of the SOA record of the
//     negative answer, or 600 s without one (§5.1.7).
//   - Authority and additional sections of translated answers are empty.
//   - A query with DO and CD is answered as by the servers (§5.5): the client validates. In other
//     answers the signatures of the translated records are removed, and AD is not set.
//   - PTR queries for addresses of the prefix get a CNAME to the name in in-addr.arpa and its
//     records (§5.3.1).
//   - The prefix 64:ff9b::/96 is not used for addresses that are not global (RFC 6052 §3.1).
//
// The prefix is configured, or found by RFC 7050: the group is asked for the IPv6 addresses of
// ipv4only.arpa. While it cannot be found, queries that need it fail.
//
// The translation (translate.go) and the form of addresses (prefix.go) are pure.
package dns64
