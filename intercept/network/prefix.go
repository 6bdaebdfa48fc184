// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
)

// The blocks that all prefixes come from by default. The hooks never redirect queries to
// addresses in them. The IPv4 block is reserved for benchmarks of routers (RFC 2544) and not
// used between networks; the IPv6 block is a unique local one (RFC 4193).
var (
	block4 = netip.MustParsePrefix("198.18.0.0/15")
	block6 = netip.MustParsePrefix("fd73:6f74:746f::/48")
)

// The prefixes of the instance that seals the host, in the upper half of the IPv4 block.
// Other instances get theirs from the lower half.
var (
	DefaultPrefix4 = netip.MustParsePrefix("198.19.0.0/16")
	DefaultPrefix6 = netip.MustParsePrefix("fd73:6f74:746f::/64")
)

// Lengths of the longest prefixes that have room for slots.
const (
	Longest4 = 24
	Longest6 = 112
)

// Reserved addresses, by their distance from the first one. The first four addresses of a
// prefix and the last one are never given to a slot.
const (
	reservedHost  = 1 // the host's end of the veth pair: next hop of the namespace's default route
	reservedInner = 2 // the namespace's end: next hop of the host's route to the prefix

	// ReservedProbe is looked up to find out where the prefix is routed to.
	ReservedProbe = 3

	// FirstSlot is the first address that a slot can have.
	FirstSlot = 4
)

// NthAddr returns the address at distance i from the first one of the prefix.
func NthAddr(p netip.Prefix, i uint32) netip.Addr {
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

// CheckPrefix returns an error if a prefix cannot contain slots. name is the setting's.
func CheckPrefix(name string, p netip.Prefix, is4 bool) error {
	example, longest := DefaultPrefix6, Longest6
	if is4 {
		example, longest = DefaultPrefix4, Longest4
	}
	switch {
	case !p.IsValid() || p.Addr().Is4() != is4 || p.Addr().Is4In6() || p.Masked() != p:
		return fmt.Errorf("%s %s: not a network; write it like %s", name, p, example)
	case p.Bits() > longest:
		return fmt.Errorf("%s %s: too small for slots; /%d is the smallest", name, p, longest)
	}
	return nil
}
