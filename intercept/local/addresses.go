// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net/netip"

	"sotto/intercept/guard"
	"sotto/intercept/network"
)

// Addresses are the addresses and networks that do not leave this machine, other than
// loopback, by flags. It is immutable.
type Addresses struct {
	own  map[netip.Addr]struct{}
	nets []netip.Prefix // on internal links

	entries map[key]uint32
}

// Read reads the addresses of the host.
func Read(n *network.Network) (*Addresses, error) {
	links, err := n.HostLinks()
	if err != nil {
		return nil, err
	}
	addrs, err := n.HostAddresses()
	if err != nil {
		return nil, err
	}
	return newAddresses(addrs, guard.InsideLinks(links)), nil
}

// newAddresses sorts addresses. inside contains the indices of internal links.
func newAddresses(addrs []network.Address, inside map[int]bool) *Addresses {
	a := &Addresses{own: make(map[netip.Addr]struct{}), entries: make(map[key]uint32)}
	for _, at := range addrs {
		addr := at.Prefix.Addr()
		if addr.IsLinkLocalUnicast() {
			continue // the same address may exist on every link
		}
		flags := uint32(flagOwn)
		if inside[at.Link] {
			flags |= flagInside
			if net := at.Prefix.Masked(); !net.IsSingleIP() {
				a.nets = append(a.nets, net)
				a.entries[keyOf(net)] |= flagInside
			}
		}
		a.own[addr] = struct{}{}
		a.entries[keyOf(netip.PrefixFrom(addr, addr.BitLen()))] |= flags
	}
	return a
}

// Contains reports whether addr is an address of the host or on an internal link.
func (a *Addresses) Contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	if _, ok := a.own[addr]; ok {
		return true
	}
	for _, n := range a.nets {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}
