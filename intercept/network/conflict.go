// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostRoute is a route of the host that may conflict with a prefix.
type hostRoute struct {
	dst     netip.Prefix
	text    string // as ip-route(8) shows it
	isSotto bool   // made by an instance of Sotto

	isUnreachable bool // of an instance of Sotto, to keep packets on this machine
}

// conflict returns the first route that conflicts with the prefix: one to the prefix or to a
// part of it. A route to a larger network does not conflict, since the prefix is more
// specific, except one of another instance of Sotto, which has its slots there.
func conflict(p netip.Prefix, routes []hostRoute) (hostRoute, bool) {
	for _, r := range routes {
		if p.Overlaps(r.dst) && (r.isSotto || r.dst.Bits() >= p.Bits()) {
			return r, true
		}
	}
	return hostRoute{}, false
}

// ConflictError means that a prefix conflicts with a route of the host.
type ConflictError struct {
	Setting string // prefix4 or prefix6
	Prefix  netip.Prefix
	Route   string // as ip-route(8) shows it
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("route %s: this machine has the route %q there already; set %s to a network that is free here",
		e.Prefix, e.Route, e.Setting)
}

// CheckRoutes returns a [ConflictError] if the network of cfg cannot be created in the network
// namespace of the calling thread because of a route there. It changes nothing.
func CheckRoutes(cfg Config) (err error) {
	n, err := New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Release()) }()
	return n.eachConflict(func([]netip.Prefix) error { return nil })
}

// checkConflicts returns an error if a prefix conflicts with a route of the host. It notes the
// other prefixes that an earlier process left routes for on this network's interface.
func (n *Network) checkConflicts() error {
	return n.eachConflict(func(old []netip.Prefix) error {
		n.addOld(old)
		return nil
	})
}

// addOld adds prefixes of an earlier process that are not those of n.
func (n *Network) addOld(prefixes []netip.Prefix) {
	for _, p := range prefixes {
		if p != n.cfg.Prefix4 && p != n.cfg.Prefix6 && !slices.Contains(n.old, p) {
			n.old = append(n.old, p)
		}
	}
}

// Old returns the prefixes whose routes RemoveOld removes.
func (n *Network) Old() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.old)
}

// RemoveOld removes the routes that an earlier process left for other prefixes. Until the hooks of
// that process are replaced and its sockets destroyed, these routes keep its packets on this
// machine.
func (n *Network) RemoveOld() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(n.old) == 0 {
		return nil
	}
	err := removeRoutes(n.host, n.old...)
	if err == nil {
		n.old = nil
	}
	return err
}

// eachConflict returns an error if a prefix conflicts with a route of the host. For each prefix
// it calls onOld with the other prefixes that are routed to this network's interface.
func (n *Network) eachConflict(onOld func(old []netip.Prefix) error) error {
	link, err := findLink(n.host, n.hostIf())
	if err != nil {
		return err
	}
	index := -1
	if link != nil {
		index = link.Attrs().Index
	}
	for _, p := range n.Prefixes() {
		routes, old, err := listRoutes(n.host, p, index)
		if err != nil {
			return err
		}
		routes = slices.DeleteFunc(routes, func(r hostRoute) bool {
			return r.isUnreachable && (slices.Contains(old, r.dst) || slices.Contains(n.old, r.dst))
		})
		setting := "prefix6"
		if p.Addr().Is4() {
			setting = "prefix4"
		}
		if r, found := conflict(p, routes); found {
			return &ConflictError{Setting: setting, Prefix: p, Route: r.text}
		}
		if err := onOld(old); err != nil {
			return err
		}
	}
	return nil
}

// listRoutes lists the host's routes in the tables main and local that overlap the prefix.
// It leaves out those of the instance itself: the routes on its interface (index), and the
// unreachable route to its prefix. old are the other prefixes that are routed to its
// interface.
func listRoutes(h *netlink.Handle, p netip.Prefix, index int) (routes []hostRoute, old []netip.Prefix, err error) {
	family := netlink.FAMILY_V6
	if p.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	all, err := h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, nil, fmt.Errorf("list routes: %w", err)
	}
	names := map[int]string{}
	for _, r := range all {
		dst := toPrefix(r.Dst, family)
		switch {
		case r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL:
		case r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_MULTICAST || r.Type == unix.RTN_ANYCAST:
		case r.LinkIndex == index:
			if r.Protocol == routeProtocol && r.Table == unix.RT_TABLE_MAIN && dst != p {
				old = append(old, dst)
			}
		case r.Type == unix.RTN_UNREACHABLE && r.Protocol == routeProtocol && dst == p:
		case dst.Bits() == 0 || !p.Overlaps(dst):
		default:
			routes = append(routes, hostRoute{
				dst: dst, text: routeText(h, dst, r, names), isSotto: r.Protocol == routeProtocol,
				isUnreachable: r.Protocol == routeProtocol && r.Type == unix.RTN_UNREACHABLE,
			})
		}
	}
	return routes, old, nil
}

// routeText formats a route like ip-route(8), as far as is needed to find it.
func routeText(h *netlink.Handle, dst netip.Prefix, r netlink.Route, names map[int]string) string {
	var b strings.Builder
	if r.Type != unix.RTN_UNICAST {
		b.WriteString(map[int]string{
			unix.RTN_LOCAL: "local ", unix.RTN_UNREACHABLE: "unreachable ",
			unix.RTN_BLACKHOLE: "blackhole ", unix.RTN_PROHIBIT: "prohibit ",
		}[r.Type])
	}
	b.WriteString(dst.String())
	if len(r.Gw) > 0 {
		b.WriteString(" via " + r.Gw.String())
	}
	if r.LinkIndex > 0 {
		name, ok := names[r.LinkIndex]
		if !ok {
			name = strconv.Itoa(r.LinkIndex)
			if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
				name = link.Attrs().Name
			}
			names[r.LinkIndex] = name
		}
		b.WriteString(" dev " + name)
	}
	return b.String()
}
