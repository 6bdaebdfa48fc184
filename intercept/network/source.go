// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses that represent the Internet: the routes to them are looked up, nothing is sent to
// them. There are three per family (RFC 5737; RFC 3849, RFC 9637 and a discard address, RFC
// 6666), because a machine may have a route of its own to one of them.
var (
	internet4 = []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}
	internet6 = []string{"2001:db8::1", "3fff::1", "100::1"}
)

// defaultRoutes are the default routes of the host.
type defaultRoutes struct{ v4, v6 defaultRoute }

// defaultRoute is the default route of a family. It is zero if there is none.
type defaultRoute struct {
	src  netip.Addr // the source address of a socket that uses it
	via  netip.Addr
	link int
}

// findDefaultRoutes looks up both families.
//
// IPv6 is usable if there is a default route and its source address is not link-local.
// Programs find out whether IPv6 works by connecting a socket and reading its address, and a
// virtual address must give the same result as another one: a machine that has IPv6 only on
// its own link has no route to the prefix. An IPv6 nameserver on that link is then not
// reachable (EHOSTUNREACH).
func (n *Network) findDefaultRoutes() (defaultRoutes, error) {
	v4, err := n.findDefaultRoute(internet4)
	if err != nil || !n.has6 {
		return defaultRoutes{v4: v4}, err
	}
	v6, err := n.findDefaultRoute(internet6)
	if v6.src.IsLinkLocalUnicast() {
		v6 = defaultRoute{}
	}
	return defaultRoutes{v4, v6}, err
}

// findDefaultRoute looks up the addresses and returns the least specific route, which is the
// default route unless the host has routes of its own to all three.
func (n *Network) findDefaultRoute(addrs []string) (defaultRoute, error) {
	var best defaultRoute
	bestBits := 129
	for _, a := range addrs {
		ip := net.ParseIP(a)
		match, err := n.host.RouteGetWithOptions(ip, &netlink.RouteGetOptions{FIBMatch: true})
		if unreachable(err) || err == nil && (len(match) == 0 || match[0].Type != unix.RTN_UNICAST) {
			continue
		}
		if err != nil {
			return defaultRoute{}, fmt.Errorf("look up the default route: %w", err)
		}
		bits := 0
		if match[0].Dst != nil {
			bits, _ = match[0].Dst.Mask.Size()
		}
		if bits >= bestBits {
			continue
		}
		got, err := n.host.RouteGet(ip)
		if err != nil || len(got) == 0 {
			continue // removed between the two lookups; its event will arrive
		}
		src, _ := netip.AddrFromSlice(got[0].Src)
		via, _ := netip.AddrFromSlice(got[0].Gw)
		if src = src.Unmap(); src.IsValid() && !src.IsUnspecified() && !src.IsLoopback() {
			best, bestBits = defaultRoute{src, via, got[0].LinkIndex}, bits
		}
	}
	return best, nil
}

// unreachable reports whether a lookup failed because there is no route.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) // prohibit, blackhole
}

// ensureSource returns the IPv4 source address for the prefix: that of the default route, or
// any address of the host, or, on a host without one, a reserved address that it adds to
// the host's end of the pair.
func (n *Network) ensureSource(link netlink.Link, fromDefault netip.Addr) (netip.Addr, error) {
	reserved := NthAddr(n.cfg.Prefix4, reservedHost)
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
			return netip.Addr{}, fmt.Errorf("add the address %s to %s: %w", reserved, n.hostIf(), err)
		}
		return reserved, nil
	}
	addrs, err := n.host.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", n.hostIf(), err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(own.IP) {
			continue
		}
		if err := n.host.AddrDel(link, own); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return netip.Addr{}, fmt.Errorf("remove the address %s from %s: %w", reserved, n.hostIf(), err)
		}
		// When an interface loses its last address, the kernel removes its IPv4 neighbour
		// entries, including permanent ones (fib_disable_ip in net/ipv4/fib_frontend.c).
		inner := NthAddr(n.cfg.Prefix4, reservedInner).AsSlice()
		if err := setNeighbour(n.host, link, MACInner, inner); err != nil {
			return netip.Addr{}, err
		}
	}
	return src, nil
}

// anyAddress returns the first global IPv4 address on a link that is up, other than the link
// with the index except.
func (n *Network) anyAddress(except int) (netip.Addr, error) {
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
