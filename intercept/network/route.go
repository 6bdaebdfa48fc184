// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that Sotto made, so that a later process and `sotto down`
// recognise them. iproute2's rt_protos does not use this number.
const routeProtocol = netlink.RouteProtocol(83)

// lastMetric is the highest metric, that is the lowest priority: the unreachable route is
// used only while the real one is missing.
const lastMetric = uint32(4294967295)

// unreachableRoute returns the unreachable route to a prefix.
func unreachableRoute(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Table: unix.RT_TABLE_MAIN,
		Protocol: routeProtocol, Priority: int(int64(lastMetric)),
	}
}

// ensureUnreachable makes the unreachable routes.
func (n *Network) ensureUnreachable() error {
	for _, p := range n.Prefixes() {
		if err := n.addRoute(n.host, unreachableRoute(p), "unreachable route for "+p.String()); err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route unless it exists, which causes no event.
func (n *Network) addRoute(h *netlink.Handle, r *netlink.Route, what string) error {
	err := h.RouteAdd(r)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", what, err)
	}
	n.repaired(what)
	return nil
}

// ensureInside makes the neighbour entries on both sides and the namespace's routes.
func (n *Network) ensureInside(ends veth) error {
	lo, err := n.inner.LinkByName("lo")
	if err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		err = n.inner.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up loopback in namespace %s: %w", n.cfg.Name, err)
	}
	index, p4 := ends.inner.Attrs().Index, n.cfg.Prefix4
	hop4 := NthAddr(p4, reservedHost)
	if err := errors.Join(
		n.ensureNeighbours(n.host, ends.host, MACInner, NthAddr(p4, reservedInner).AsSlice(), hop6Inner),
		n.ensureNeighbours(n.inner, ends.inner, MACHost, hop4.AsSlice(), hop6Host),
	); err != nil {
		return err
	}
	routes := []*netlink.Route{
		// The address of the host's end is in the prefix, but not local here: a host without any
		// other address sends from it, see ensureSource.
		{Dst: ipNet(netip.PrefixFrom(hop4, 32)), LinkIndex: index, Scope: unix.RT_SCOPE_LINK, Table: unix.RT_TABLE_LOCAL},
		{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), LinkIndex: index, Gw: hop4.AsSlice(), Flags: unix.RTNH_F_ONLINK},
	}
	if n.has6 {
		own := netip.PrefixFrom(NthAddr(n.cfg.Prefix6, reservedHost), 128)
		routes = append(routes,
			&netlink.Route{Dst: ipNet(own), LinkIndex: index, Gw: hop6Host, Flags: unix.RTNH_F_ONLINK, Table: unix.RT_TABLE_LOCAL},
			&netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), LinkIndex: index, Gw: hop6Host, Flags: unix.RTNH_F_ONLINK},
		)
	}
	for _, p := range n.Prefixes() {
		routes = append(routes, &netlink.Route{ // AnyIP: every address of the prefix is local
			Dst: ipNet(p), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
		})
	}
	for _, r := range routes {
		r.Protocol = routeProtocol
		if err := n.addRoute(n.inner, r, "inner route for "+r.Dst.String()); err != nil {
			return err
		}
	}
	return nil
}

// ensureNeighbours makes permanent entries for the other end, so that the kernel never sends
// ARP or neighbour discovery on the pair.
func (n *Network) ensureNeighbours(h *netlink.Handle, link netlink.Link, mac net.HardwareAddr, ip4, ip6 net.IP) error {
	ips := []net.IP{ip4}
	if n.has6 {
		ips = append(ips, ip6)
	}
	for _, ip := range ips {
		family := netlink.FAMILY_V6
		if ip.To4() != nil {
			family = netlink.FAMILY_V4
		}
		known, err := h.NeighList(link.Attrs().Index, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list neighbours on %s: %w", link.Attrs().Name, err)
		}
		if hasNeighbour(known, ip, mac) {
			continue
		}
		if err := setNeighbour(h, link, mac, ip); err != nil {
			return err
		}
		n.repaired("neighbour on " + link.Attrs().Name)
	}
	return nil
}

// setNeighbour makes one permanent entry, or replaces the existing one.
func setNeighbour(h *netlink.Handle, link netlink.Link, mac net.HardwareAddr, ip net.IP) error {
	family := netlink.FAMILY_V6
	if ip.To4() != nil {
		family = netlink.FAMILY_V4
	}
	err := h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s on %s: %w", ip, link.Attrs().Name, err)
	}
	return nil
}

// hasNeighbour reports whether list contains a permanent entry for ip.
func hasNeighbour(list []netlink.Neigh, ip net.IP, mac net.HardwareAddr) bool {
	for _, e := range list {
		if e.IP.Equal(ip) && e.State&netlink.NUD_PERMANENT != 0 && bytes.Equal(e.HardwareAddr, mac) {
			return true
		}
	}
	return false
}

// ensureRoutes routes the prefixes to the pair, with the source address that the default
// route would use. It withdraws the IPv6 route while no link of the host has IPv6.
func (n *Network) ensureRoutes(ends veth) error {
	defaults, err := n.findDefaultRoutes()
	if err != nil {
		return err
	}
	n.defaults = defaults
	src, err := n.ensureSource(ends.host, n.cfg.Prefix4, defaults.v4.src)
	if err != nil {
		return err
	}
	link := ends.host.Attrs().Index
	if err := n.ensureRoute(n.cfg.Prefix4, link, NthAddr(n.cfg.Prefix4, reservedInner).AsSlice(), src, &n.src[0]); err != nil || !n.has6 {
		return err
	}
	if src, err = n.ensureSource(ends.host, n.cfg.Prefix6, defaults.v6.src); err != nil {
		return err
	}
	if src.IsValid() {
		return n.ensureRoute(n.cfg.Prefix6, link, hop6Inner, src, &n.src[1])
	}
	n.src[1] = netip.Addr{}
	err = n.host.RouteDel(realRoute(n.cfg.Prefix6, link, hop6Inner, netip.Addr{}))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("withdraw route %s: %w", n.cfg.Prefix6, err)
	}
	return nil
}

// realRoute returns the route to a prefix. It has no source address if src is invalid.
func realRoute(p netip.Prefix, link int, hop net.IP, src netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(p), LinkIndex: link, Gw: hop, Flags: unix.RTNH_F_ONLINK, Src: src.AsSlice(),
		Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN,
	}
}

// ensureRoute makes one route, unless a lookup shows that it is in effect. It does not list
// the routes, which would take seconds on a machine with the full Internet table. last is
// the source address that the route had: the kernel removes a route when its source address
// is removed, so a missing route is a repair only if the source address is the same.
func (n *Network) ensureRoute(p netip.Prefix, link int, hop net.IP, src netip.Addr, last *netip.Addr) error {
	want := realRoute(p, link, hop, src)
	if n.inEffect(p, want) {
		*last = src
		return nil
	}
	if err := n.host.RouteReplace(want); err != nil {
		return fmt.Errorf("route %s to link %s: %w", p, n.hostIf(), err)
	}
	if *last == src {
		n.repaired("route " + p.String())
	}
	*last = src
	if !n.inEffect(p, want) {
		return fmt.Errorf("route %s: another routing table comes first (see: ip rule); "+
			"add a rule with: ip rule add to %s lookup main priority 1", p, p)
	}
	return nil
}

// inEffect looks up which route a packet for the prefix takes, and reports whether it is
// the wanted one.
func (n *Network) inEffect(p netip.Prefix, want *netlink.Route) bool {
	got, err := n.host.RouteGetWithOptions(NthAddr(p, ReservedProbe).AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(got) == 0 {
		return false // unreachable, or not routed at all
	}
	r := got[0]
	return r.Type == unix.RTN_UNICAST && r.LinkIndex == want.LinkIndex && r.Gw.Equal(want.Gw) &&
		r.Dst != nil && r.Dst.String() == want.Dst.String() && r.Src.Equal(want.Src)
}

// ipNet converts a prefix to the type that netlink uses.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the inverse of ipNet. nil is the destination of a default route.
func toPrefix(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	if family == netlink.FAMILY_V4 {
		addr = addr.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr, ones)
}
