// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that Sotto made, so that a later run and
// `sotto down` know them. Nothing in iproute2's rt_protos has this number.
const routeProtocol = netlink.RouteProtocol(83)

// twinMetric is the weakest metric there is: the twin counts only when the
// route beside it is gone.
const twinMetric = uint32(4294967295)

// twin is the unreachable route beside the real one.
func twin(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Table: unix.RT_TABLE_MAIN,
		Protocol: routeProtocol, Priority: int(int64(twinMetric)),
	}
}

// ensureTwins makes the unreachable routes.
func (n *network) ensureTwins() error {
	for _, p := range n.prefixes() {
		if err := n.addRoute(n.host, twin(p), "unreachable route for "+p.String()); err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route unless it is there, which causes no event.
func (n *network) addRoute(h *netlink.Handle, r *netlink.Route, what string) error {
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

// ensureInside makes the neighbours on both sides and the namespace's routes.
func (n *network) ensureInside(ends veth) error {
	lo, err := n.inner.LinkByName("lo")
	if err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		err = n.inner.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up loopback in namespace %s: %w", n.cfg.Name, err)
	}
	index, p4 := ends.inner.Attrs().Index, n.cfg.Prefix4
	hop4 := nthAddr(p4, reservedHost)
	if err := errors.Join(
		n.ensureNeighbours(n.host, ends.host, macInner, nthAddr(p4, reservedInner).AsSlice(), hop6Inner),
		n.ensureNeighbours(n.inner, ends.inner, macHost, hop4.AsSlice(), hop6Host),
	); err != nil {
		return err
	}
	routes := []*netlink.Route{
		// The host's own end is an address of the prefix, but not of this side:
		// a host without any address sends from it, see ensureSource.
		{Dst: ipNet(netip.PrefixFrom(hop4, 32)), LinkIndex: index, Scope: unix.RT_SCOPE_LINK, Table: unix.RT_TABLE_LOCAL},
		{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), LinkIndex: index, Gw: hop4.AsSlice(), Flags: unix.RTNH_F_ONLINK},
	}
	if n.has6 {
		routes = append(routes, &netlink.Route{
			Dst: ipNet(netip.MustParsePrefix("::/0")), LinkIndex: index, Gw: hop6Host, Flags: unix.RTNH_F_ONLINK,
		})
	}
	for _, p := range n.prefixes() {
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

// ensureNeighbours makes permanent entries for the other end, so that nothing
// is ever asked on the link.
func (n *network) ensureNeighbours(h *netlink.Handle, link netlink.Link, mac net.HardwareAddr, ip4, ip6 net.IP) error {
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

// setNeighbour makes one permanent entry, or replaces what is there.
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

// hasNeighbour looks for a permanent entry.
func hasNeighbour(list []netlink.Neigh, ip net.IP, mac net.HardwareAddr) bool {
	for _, e := range list {
		if e.IP.Equal(ip) && e.State&netlink.NUD_PERMANENT != 0 && bytes.Equal(e.HardwareAddr, mac) {
			return true
		}
	}
	return false
}

// ensureRoutes routes the prefixes to the link, with the source address that
// the default route would use, and IPv6 only while it is usable.
func (n *network) ensureRoutes(ends veth) error {
	way, err := n.findWayOut()
	if err != nil {
		return err
	}
	n.way = way
	src, err := n.ensureSource(ends.host, way.v4.src)
	if err != nil {
		return err
	}
	link := ends.host.Attrs().Index
	if err := n.ensureRoute(n.cfg.Prefix4, link, nthAddr(n.cfg.Prefix4, reservedInner).AsSlice(), src, &n.src[0]); err != nil || !n.has6 {
		return err
	}
	if way.v6.src.IsValid() {
		return n.ensureRoute(n.cfg.Prefix6, link, hop6Inner, way.v6.src, &n.src[1])
	}
	n.src[1] = netip.Addr{}
	err = n.host.RouteDel(realRoute(n.cfg.Prefix6, link, hop6Inner, netip.Addr{}))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("withdraw route %s: %w", n.cfg.Prefix6, err)
	}
	return nil
}

// realRoute is the route to a prefix. An invalid source is none.
func realRoute(p netip.Prefix, link int, hop net.IP, src netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(p), LinkIndex: link, Gw: hop, Flags: unix.RTNH_F_ONLINK, Src: src.AsSlice(),
		Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN,
	}
}

// ensureRoute makes one route, unless a look-up shows that it is there and in
// effect: a dump would cost seconds on a machine that holds the Internet's.
// last is the source that it had; the kernel drops a route whose source goes,
// so one that is missing while its source changes was nobody's doing.
func (n *network) ensureRoute(p netip.Prefix, link int, hop net.IP, src netip.Addr, last *netip.Addr) error {
	want := realRoute(p, link, hop, src)
	if n.inEffect(p, want) {
		*last = src
		return nil
	}
	if err := n.host.RouteReplace(want); err != nil {
		return fmt.Errorf("route %s to link %s: %w", p, n.hostLink(), err)
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

// inEffect looks up which route a packet for the prefix takes.
func (n *network) inEffect(p netip.Prefix, want *netlink.Route) bool {
	got, err := n.host.RouteGetWithOptions(nthAddr(p, reservedProbe).AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(got) == 0 {
		return false // unreachable by the twin, or not routed at all
	}
	r := got[0]
	return r.Type == unix.RTN_UNICAST && r.LinkIndex == want.LinkIndex && r.Gw.Equal(want.Gw) &&
		r.Dst != nil && r.Dst.String() == want.Dst.String() && r.Src.Equal(want.Src)
}

// ipNet turns a prefix into what netlink takes.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the way back. A nil network is the default route's.
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
