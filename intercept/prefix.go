// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net/netip"
	"strconv"
)

// The blocks that every prefix comes from; no hook ever rewrites an address of
// them. The IPv4 block is RFC 2544's, for benchmarks of routers, and not used
// between networks; the IPv6 block is a unique local one (RFC 4193).
var (
	block4 = netip.MustParsePrefix("198.18.0.0/15")
	block6 = netip.MustParsePrefix("fd73:6f74:746f::/48")
)

// The prefixes of the instance that seals the host, in the upper half of the
// IPv4 block; further instances take theirs from the lower half.
var (
	defaultPrefix4 = netip.MustParsePrefix("198.19.0.0/16")
	defaultPrefix6 = netip.MustParsePrefix("fd73:6f74:746f::/64")
)

// maxInstances is how many /22 fit into the lower half of the IPv4 block.
const maxInstances = 64

// Reserved addresses: the first four of a prefix and its last never become
// slots. Their uses:
const (
	reservedHost   = 1 // the host's end of the link: next hop of the way back
	reservedInner  = 2 // the namespace's end: next hop of the route to the prefix
	reservedProbe  = 3 // looked up to see where the prefix is routed to
	firstSlotIndex = 4
)

// nthAddr returns the address that is i after the first of the prefix.
func nthAddr(p netip.Prefix, i uint32) netip.Addr {
	b := p.Masked().Addr().As16()
	for at := len(b) - 1; i > 0; at-- {
		i += uint32(b[at])
		b[at] = byte(i)
		i >>= 8
	}
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

// checkPrefix refuses what cannot hold slots. name is the setting's.
func checkPrefix(name string, p netip.Prefix, is4 bool) error {
	example, least := defaultPrefix6, 112
	if is4 {
		example, least = defaultPrefix4, 24
	}
	switch {
	case !p.IsValid() || p.Addr().Is4() != is4 || p.Addr().Is4In6() || p.Masked() != p:
		return fmt.Errorf("%s %s: not a network; write it like %s", name, p, example)
	case p.Bits() > least:
		return fmt.Errorf("%s %s: too small for slots; /%d is the smallest", name, p, least)
	}
	return nil
}

// instance is what makes one of several instances side by side: names and
// prefixes that no other has.
type instance struct {
	n                int
	name, link       string
	prefix4, prefix6 netip.Prefix
}

// nthInstance returns the n-th further instance, from 0. Its link base ends in
// a number, so its links (sottoN0, sottoN1) never meet those of the instance
// called "sotto" (sotto0, sotto1).
func nthInstance(n int) instance {
	sixteen := block6.Addr().As16()
	sixteen[6], sixteen[7] = byte((n+1)>>8), byte(n+1)
	return instance{
		n:       n,
		name:    "sotto-" + strconv.Itoa(n),
		link:    "sotto" + strconv.Itoa(n),
		prefix4: netip.PrefixFrom(nthAddr(block4, uint32(n)<<10), 22),
		prefix6: netip.PrefixFrom(netip.AddrFrom16(sixteen), 64),
	}
}

// hostRoute is a route of the host as conflicts are decided by it.
type hostRoute struct {
	dst  netip.Prefix
	text string // as ip-route(8) would show it
	mine bool   // made by Sotto, if by another instance of it
}

// conflict returns the first route that leads a part of the prefix, or exactly
// the prefix, elsewhere. A wider route is none, the prefix being more specific,
// unless another instance of Sotto keeps its slots there.
func conflict(p netip.Prefix, routes []hostRoute) (hostRoute, bool) {
	for _, r := range routes {
		if p.Overlaps(r.dst) && (r.mine || r.dst.Bits() >= p.Bits()) {
			return r, true
		}
	}
	return hostRoute{}, false
}

// conflictError names the route and the setting that mends it.
func conflictError(setting string, p netip.Prefix, r hostRoute) error {
	return fmt.Errorf("route %s: this machine has the route %q there already; set %s to a network that is free here",
		p, r.text, setting)
}
