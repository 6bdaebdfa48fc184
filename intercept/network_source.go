// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses that stand for "anywhere": nothing is sent to them, only the route
// to them is looked up. Three a family (RFC 5737; RFC 3849, RFC 9637 and a
// discard address, RFC 6666), because a machine may have a route to one of them.
var (
	anywhere4 = []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}
	anywhere6 = []string{"2001:db8::1", "3fff::1", "100::1"}
)

// wayOut is how the host reaches the rest of the world.
type wayOut struct{ v4, v6 hop }

// hop is what the default route of a family leads to. Without a default route
// it is zero.
type hop struct {
	src  netip.Addr // the source address that it gives a socket
	via  netip.Addr
	link int
}

// findWayOut looks up both families.
//
// IPv6 counts as usable when there is a route to anywhere and it gives a source
// address of more than link scope. Programs find out whether IPv6 works by
// connecting a socket and looking at its address, and the prefix must not tell
// them otherwise: a machine with IPv6 on its own link only has no route to the
// prefix, and an IPv6 nameserver on that link is then not reached (EHOSTUNREACH).
func (n *network) findWayOut() (wayOut, error) {
	v4, err := n.findHop(anywhere4)
	if err != nil || !n.has6 {
		return wayOut{v4: v4}, err
	}
	v6, err := n.findHop(anywhere6)
	if v6.src.IsLinkLocalUnicast() {
		v6 = hop{}
	}
	return wayOut{v4, v6}, err
}

// findHop looks the addresses up and keeps the one whose route is the widest,
// which is the default route unless somebody routes all three of them.
func (n *network) findHop(anywhere []string) (hop, error) {
	var best hop
	width := 129
	for _, a := range anywhere {
		ip := net.ParseIP(a)
		match, err := n.host.RouteGetWithOptions(ip, &netlink.RouteGetOptions{FIBMatch: true})
		if unreachable(err) || err == nil && (len(match) == 0 || match[0].Type != unix.RTN_UNICAST) {
			continue
		}
		if err != nil {
			return hop{}, fmt.Errorf("look up the default route: %w", err)
		}
		bits := 0
		if match[0].Dst != nil {
			bits, _ = match[0].Dst.Mask.Size()
		}
		if bits >= width {
			continue
		}
		got, err := n.host.RouteGet(ip)
		if err != nil || len(got) == 0 {
			continue // gone between the two look-ups; its event is on the way
		}
		src, _ := netip.AddrFromSlice(got[0].Src)
		via, _ := netip.AddrFromSlice(got[0].Gw)
		if src = src.Unmap(); src.IsValid() && !src.IsUnspecified() && !src.IsLoopback() {
			best, width = hop{src, via, got[0].LinkIndex}, bits
		}
	}
	return best, nil
}

// unreachable tells the errors by which a look-up says that there is no way.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) // prohibit, blackhole
}

// ensureSource returns the IPv4 source for the prefix: what the default route
// gives, else any address of the host, else, on a host that has none, a
// reserved one that it puts on the link.
func (n *network) ensureSource(link netlink.Link, fromDefault netip.Addr) (netip.Addr, error) {
	reserved := nthAddr(n.cfg.Prefix4, reservedHost)
	src := fromDefault
	if !src.IsValid() {
		var err error
		if src, err = n.anyAddress(link.Attrs().Index); err != nil {
			return netip.Addr{}, err
		}
	}
	own := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(reserved, 32))}
	if !src.IsValid() {
		if err := n.host.AddrAdd(link, own); err != nil && !errors.Is(err, unix.EEXIST) {
			return netip.Addr{}, fmt.Errorf("give link %s the address %s: %w", n.hostLink(), reserved, err)
		}
		return reserved, nil
	}
	addrs, err := n.host.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", n.hostLink(), err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(own.IP) {
			continue
		}
		if err := n.host.AddrDel(link, own); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return netip.Addr{}, fmt.Errorf("take the address %s off %s: %w", reserved, n.hostLink(), err)
		}
		// With its last address a link loses its IPv4 neighbours, the permanent
		// ones too (fib_disable_ip in net/ipv4/fib_frontend.c).
		inner := nthAddr(n.cfg.Prefix4, reservedInner).AsSlice()
		if err := setNeighbour(n.host, link, macInner, inner); err != nil {
			return netip.Addr{}, err
		}
	}
	return src, nil
}

// anyAddress returns the first global IPv4 address on a link that is up, but
// for the one with index except.
func (n *network) anyAddress(except int) (netip.Addr, error) {
	links, err := n.host.LinkList()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Index == except || l.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := n.host.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && a.Scope == unix.RT_SCOPE_UNIVERSE && !ip.IsLoopback() {
				return ip, nil
			}
		}
	}
	return netip.Addr{}, nil
}
