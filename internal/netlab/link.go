// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"net/netip"
	"os"
)

// Wire joins two hosts by a veth pair, aIf in a and bIf in b. Packets pass when
// it returns.
func (l *Lab) Wire(a *Host, aIf string, b *Host, bIf string) error {
	if err := a.links.Wire(aIf, b.links, bIf); err != nil {
		return fmt.Errorf("wire %s to %s: %w", a.Name, b.Name, err)
	}
	return nil
}

// HasIPv6 tells whether this kernel has IPv6. Where it has none (booted with
// ipv6.disable=1), a lab is IPv4 only: Addr and Route ignore the rest.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// ignored tells whether p is of a family that this kernel does not have.
func ignored(p netip.Prefix) bool { return p.Addr().Is6() && !HasIPv6() }

// Addr gives a link addresses in CIDR form, usable at once.
func (h *Host) Addr(ifname string, cidrs ...string) error {
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err == nil && !ignored(p) {
			err = h.links.Addr(ifname, p)
		}
		if err != nil {
			return fmt.Errorf("in %s: %w", h.Name, err)
		}
	}
	return nil
}

// Route sends dst (CIDR, "0.0.0.0/0" and "::/0" for the default) to gateway via.
func (h *Host) Route(dst, via string) error {
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		return fmt.Errorf("in %s: %w", h.Name, err)
	}
	gw, err := netip.ParseAddr(via)
	if err == nil && !ignored(p) {
		err = h.links.Route(p, gw)
	}
	if err != nil {
		return fmt.Errorf("in %s: %w", h.Name, err)
	}
	return nil
}
