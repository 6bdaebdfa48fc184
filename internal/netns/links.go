// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links configures the links of a namespace, for code that must not use netlink itself.
// Its methods may be called concurrently.
type Links struct {
	ns *NS
	h  *netlink.Handle
}

// Links returns the links of the namespace. The caller closes them before the namespace.
func (n *NS) Links() (*Links, error) {
	h, err := n.Netlink()
	if err != nil {
		return nil, err
	}
	return &Links{ns: n, h: h}, nil
}

// Close releases the handle. The links stay.
func (l *Links) Close() error {
	l.h.Close()
	return nil
}

// Wire makes a veth pair, ifname here and peerName in peer's namespace, sets
// both ends up, and waits until packets pass.
func (l *Links) Wire(ifname string, peer *Links, peerName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifname
	err := l.h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.ns.Fd())})
	if err != nil {
		return fmt.Errorf("make link %s to %s: %w", ifname, peerName, err)
	}
	if err := l.Up(ifname); err != nil {
		return err
	}
	if err := peer.Up(peerName); err != nil {
		return err
	}
	if err := l.waitUp(ifname); err != nil {
		return err
	}
	return peer.waitUp(peerName)
}

// Bridge makes a bridge and sets it up.
func (l *Links) Bridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := l.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return l.Up(name)
}

// Enslave makes a link a port of a bridge.
func (l *Links) Enslave(port, bridge string) error {
	p, err := l.find(port)
	if err != nil {
		return err
	}
	b, err := l.find(bridge)
	if err != nil {
		return err
	}
	if err := l.h.LinkSetMasterByIndex(p, b.Attrs().Index); err != nil {
		return fmt.Errorf("put %s on bridge %s: %w", port, bridge, err)
	}
	return nil
}

// Up sets a link up.
func (l *Links) Up(ifname string) error {
	link, err := l.find(ifname)
	if err != nil {
		return err
	}
	if err := l.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up link %s: %w", ifname, err)
	}
	return nil
}

// waitUp waits until the kernel accepts packets for a link. It activates the second end of
// a pair in a worker, up to a second later, and drops packets until then.
func (l *Links) waitUp(ifname string) error {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		link, err := l.find(ifname)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("set up link %s: it stays down", ifname)
}

// Addr adds an address to a link. An IPv6 address is usable at once, without duplicate
// address detection.
func (l *Links) Addr(ifname string, p netip.Prefix) error {
	link, err := l.find(ifname)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := l.h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add the address %s to %s: %w", p, ifname, err)
	}
	if p.Addr().Is6() && link.Attrs().OperState != netlink.OperDown {
		return l.waitLocal(p.Addr())
	}
	return nil
}

// waitLocal waits until the kernel accepts packets for an IPv6 address: it adds the local
// route in a worker (addrconf_dad_begin in net/ipv6/addrconf.c).
func (l *Links) waitLocal(a netip.Addr) error {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		routes, err := l.h.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
	}
	return fmt.Errorf("wait for the address %s: the kernel added no local route", a)
}

// Route adds a route to dst by a gateway on one of the links.
func (l *Links) Route(dst netip.Prefix, via netip.Addr) error {
	if err := l.h.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("route %s via %s: %w", dst, via, err)
	}
	return nil
}

func (l *Links) find(ifname string) (netlink.Link, error) {
	link, err := l.h.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", ifname, err)
	}
	return link, nil
}

// ipNet converts a prefix to the type that netlink uses, with its host bits.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
