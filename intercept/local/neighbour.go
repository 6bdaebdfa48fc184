// SPDX-License-Identifier: Apache-2.0

package local

import (
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/intercept/guard"
)

// isNeighbour reports whether packets of the calling thread's network namespace to addr reach the
// host directly: addr is an address of the host, and the route to it leads without a gateway to
// a veth whose other end is an internal link of the host. A container engine's resolver at such
// an address knows its clients by the addresses from which they ask (aardvark-dns).
func (r *Resolvers) isNeighbour(addr netip.Addr) bool {
	route, err := lookup(addr)
	if err != nil || len(route.Gw) > 0 || len(route.MultiPath) > 0 || route.Type != unix.RTN_UNICAST {
		return false
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil || link.Type() != "veth" {
		return false
	}
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return false
	}
	defer here.Close()
	found := false
	err = r.network.Home().Do(func() error {
		found = isLocalHere(addr) && r.isPeer(link.Attrs(), int(here.Fd()))
		return nil
	})
	return err == nil && found
}

// isPeer reports whether the other end of a veth in the network namespace ns is an internal
// link of the host. It is called in the host's namespace. Interface numbers are not unique
// across namespaces, so it compares the namespace of the other end's peer too.
func (r *Resolvers) isPeer(veth *netlink.LinkAttrs, ns int) bool {
	peer, err := netlink.LinkByIndex(veth.ParentIndex)
	if err != nil || peer.Type() != "veth" || peer.Attrs().ParentIndex != veth.Index {
		return false
	}
	id, err := netlink.GetNetNsIdByFd(ns)
	if err != nil || id < 0 || id != peer.Attrs().NetNsID {
		return false
	}
	links, err := r.network.HostLinks()
	return err == nil && guard.InsideLinks(links)[peer.Attrs().Index]
}
