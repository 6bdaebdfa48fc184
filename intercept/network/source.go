// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

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
// The IPv6 default route counts if its source address is not link-local. Without one, the
// prefix is still routed, for nameservers on a link of the host: see ensureSource.
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
		if src = src.Unmap(); src.IsValid() && !src.IsUnspecified() && !src.IsLoopback() && !n.isReserved(src) {
			best, bestBits = defaultRoute{src, via, got[0].LinkIndex}, bits
		}
	}
	return best, nil
}

// isReserved reports whether an address is that of last resort: the kernel chooses it for a
// default route if the host has no other, or only link-local ones.
func (n *Network) isReserved(a netip.Addr) bool {
	return a == NthAddr(n.cfg.Prefix4, reservedHost) || a == NthAddr(n.cfg.Prefix6, reservedHost)
}

// unreachable reports whether a lookup failed because there is no route.
func unreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) // prohibit, blackhole
}

// ensureSource returns the source address for a prefix: that of the default route, or any
// address of the host in the same family, or, on a host without one, a reserved address that
// it adds to the host's end of the pair. So a nameserver on a link of the host works without
// a default route. A host on whose links IPv6 is disabled gets no IPv6 source address.
func (n *Network) ensureSource(link netlink.Link, p netip.Prefix, fromDefault netip.Addr) (netip.Addr, error) {
	src, has := fromDefault, true
	if !src.IsValid() {
		var err error
		if src, has, err = n.anyAddress(familyOf(p)); err != nil {
			return netip.Addr{}, err
		}
	}
	own := reservedAddr(p)
	if !src.IsValid() && (has || p.Addr().Is4()) {
		if err := n.host.AddrAdd(link, own); err != nil && !errors.Is(err, unix.EEXIST) {
			return netip.Addr{}, fmt.Errorf("add the address %s to %s: %w", own.IP, n.hostIf(), err)
		}
		return NthAddr(p, reservedHost), n.waitLocal(own.IP)
	}
	return src, n.removeReserved(link, own)
}

const (
	// localTime limits the wait for the route of a new address.
	localTime     = time.Second
	localInterval = time.Millisecond
)

// waitLocal waits until packets to a new address are delivered to this host. The kernel adds
// the route of an IPv6 address in the background (addrconf_dad_work, net/ipv6/addrconf.c), and
// drops replies before.
func (n *Network) waitLocal(ip net.IP) error {
	for end := time.Now().Add(localTime); ; time.Sleep(localInterval) {
		routes, err := n.host.RouteGetWithOptions(ip, &netlink.RouteGetOptions{FIBMatch: true})
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for the route of the address %s: it is not local after %s: %v, %w", ip, localTime, routes, err)
		}
	}
}

// reservedAddr returns the address of last resort. An IPv6 one is deprecated, so that it is
// used for the prefix only.
func reservedAddr(p netip.Prefix) *netlink.Addr {
	a := NthAddr(p, reservedHost)
	out := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
	if a.Is6() {
		forever := int64(lastMetric)
		out.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		out.ValidLft, out.PreferedLft = int(forever), 0
	}
	return out
}

// removeReserved removes the address of last resort, if the link has it.
func (n *Network) removeReserved(link netlink.Link, own *netlink.Addr) error {
	family := netlink.FAMILY_V6
	if own.IP.To4() != nil {
		family = netlink.FAMILY_V4
	}
	addrs, err := n.host.AddrList(link, family)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", n.hostIf(), err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(own.IP) {
			continue
		}
		if err := n.host.AddrDel(link, &netlink.Addr{IPNet: own.IPNet}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove the address %s from %s: %w", own.IP, n.hostIf(), err)
		}
		if family == netlink.FAMILY_V6 {
			continue
		}
		// When an interface loses its last address, the kernel removes its IPv4 neighbour
		// entries, including permanent ones (fib_disable_ip in net/ipv4/fib_frontend.c).
		inner := NthAddr(n.cfg.Prefix4, reservedInner).AsSlice()
		if err := setNeighbour(n.host, link, MACInner, inner); err != nil {
			return err
		}
	}
	return nil
}

// unusable are the flags of addresses that are not a source address of choice.
const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED

// anyAddress returns the first global address of the host on a link that is up and not of an
// instance of Sotto. has reports whether there are such links with any address of the family:
// only of this link, or not usable.
func (n *Network) anyAddress(family int) (addr netip.Addr, has bool, err error) {
	links, err := n.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Addr{}, false, fmt.Errorf("list links: %w", err)
	}
	eligible := make(map[int]bool, len(links))
	for _, l := range links {
		a := l.Attrs()
		eligible[a.Index] = a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.Name != n.hostIf() && !bytes.Equal(a.HardwareAddr, MACHost)
	}
	addrs, err := n.host.AddrList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Addr{}, false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !eligible[a.LinkIndex] {
			continue
		}
		has = true
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&unusable == 0 {
			return ip.Unmap(), true, nil
		}
	}
	return netip.Addr{}, has, nil
}

// familyOf returns the address family of a prefix.
func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
