// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Wire joins two hosts by a veth pair, aIf in a and bIf in b, both up.
func (l *Lab) Wire(a *Host, aIf string, b *Host, bIf string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aIf
	err := a.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bIf, PeerNamespace: netlink.NsFd(b.NS.Fd())})
	if err != nil {
		return fmt.Errorf("wire %s in %s to %s in %s: %w", aIf, a.Name, bIf, b.Name, err)
	}
	if err := errors.Join(a.up(aIf), b.up(bIf)); err != nil {
		return err
	}
	return errors.Join(a.waitUp(aIf), b.waitUp(bIf))
}

// waitUp waits until the kernel takes packets for a link. It starts one end of
// a pair in a worker of its own, up to a second later, and drops until then.
func (h *Host) waitUp(ifname string) error {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		link, err := h.nl.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("find link %s in %s: %w", ifname, h.Name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("set up link %s in %s: it stays down", ifname, h.Name)
}

// up sets a link up.
func (h *Host) up(ifname string) error {
	link, err := h.nl.LinkByName(ifname)
	if err == nil {
		err = h.nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up link %s in %s: %w", ifname, h.Name, err)
	}
	return nil
}

// Addr gives a link addresses in CIDR form. IPv6 addresses are usable at once:
// nobody in a lab answers duplicate address detection.
func (h *Host) Addr(ifname string, cidrs ...string) error {
	link, err := h.nl.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("find link %s in %s: %w", ifname, h.Name, err)
	}
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return fmt.Errorf("address for %s in %s: %w", ifname, h.Name, err)
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s in %s the address %s: %w", ifname, h.Name, c, err)
		}
	}
	return nil
}

// Route sends dst (CIDR, "0.0.0.0/0" and "::/0" for the default) to gateway via.
func (h *Host) Route(dst, via string) error {
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		return fmt.Errorf("route in %s: %w", h.Name, err)
	}
	if err := h.nl.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", dst, via, h.Name, err)
	}
	return nil
}

// Netlink returns the host's netlink handle, closed with the lab, for what the
// lab has no word for.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// ipNet turns a prefix into what netlink takes, host bits kept.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addBridge adds a bridge to the host.
func addBridge(h *Host, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s in %s: %w", name, h.Name, err)
	}
	return nil
}

// enslave puts a port on a bridge.
func enslave(h *Host, port, bridge string) error {
	p, err := h.nl.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find link %s in %s: %w", port, h.Name, err)
	}
	b, err := h.nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s in %s: %w", bridge, h.Name, err)
	}
	if err := h.nl.LinkSetMasterByIndex(p, b.Attrs().Index); err != nil {
		return fmt.Errorf("put %s on bridge %s in %s: %w", port, bridge, h.Name, err)
	}
	return nil
}
