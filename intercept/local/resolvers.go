// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/intercept/guard"
	"sotto/intercept/network"
	"sotto/intercept/spaces"
)

// Resolvers opens sockets to local resolvers. Its methods may be called concurrently.
type Resolvers struct {
	network *network.Network
	spaces  *spaces.Finder
}

// NewResolvers returns a Resolvers for the host of a network, which it uses until the network
// is closed. f finds the namespaces of clients.
func NewResolvers(n *network.Network, f *spaces.Finder) *Resolvers {
	return &Resolvers{network: n, spaces: f}
}

// errLeaves is the error for an address that is not, or no longer, on this machine.
var errLeaves = errors.New("the nameserver is not on this machine")

// Do runs open, which opens a socket to a local resolver and connects it, in the network
// namespace from which the client's queries would reach it: that of the client, identified by
// the low half of its cookie (0 for the host's), or that of the host for an address of the host
// that is behind a gateway for the client.
// It returns an error if packets to addr would leave this machine. pids returns processes
// that may be in the client's namespace.
func (r *Resolvers) Do(addr netip.Addr, cookie uint32, pids func() []int, open func() error) error {
	addr = addr.Unmap()
	home := func() error {
		return r.network.Home().Do(func() error {
			if err := r.checkHome(addr); err != nil {
				return err
			}
			return open()
		})
	}
	if cookie == 0 {
		return home()
	}
	err := r.spaces.Do(cookie, pids, func() error {
		if !isLocalHere(addr) && !r.isNeighbour(addr) {
			return errLeaves
		}
		return open()
	})
	if !addr.IsLoopback() && (errors.Is(err, errLeaves) || errors.Is(err, spaces.ErrNotFound)) {
		return home()
	}
	return err
}

// checkHome returns an error unless packets of the host to addr stay on this machine.
func (r *Resolvers) checkHome(addr netip.Addr) error {
	if isLocalHere(addr) {
		return nil
	}
	route, err := lookup(addr)
	if err != nil {
		return err
	}
	links, err := r.network.HostLinks()
	if err != nil {
		return err
	}
	if len(route.Gw) > 0 || route.Type != unix.RTN_UNICAST || !guard.InsideLinks(links)[route.LinkIndex] {
		return errLeaves
	}
	return nil
}

// isLocalHere reports whether addr is an address of the calling thread's network namespace.
func isLocalHere(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return true
	}
	route, err := lookup(addr)
	return err == nil && route.Type == unix.RTN_LOCAL
}

// lookup returns the route to addr in the calling thread's network namespace.
func lookup(addr netip.Addr) (netlink.Route, error) {
	routes, err := netlink.RouteGet(slices.Clone(addr.AsSlice()))
	if err == nil && len(routes) == 0 {
		err = errLeaves
	}
	if err != nil {
		return netlink.Route{}, fmt.Errorf("look up the route to %s: %w", addr, err)
	}
	return routes[0], nil
}
