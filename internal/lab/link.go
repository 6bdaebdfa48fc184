// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
)

// Wire joins two hosts by a veth pair, aIf in a and bIf in b. Packets pass when
// it returns.
func (l *Lab) Wire(a *Host, aIf string, b *Host, bIf string) error {
	if err := a.links.Wire(aIf, b.links, bIf); err != nil {
		return fmt.Errorf("wire %s to %s: %w", a.Name, b.Name, err)
	}
	return nil
}

// Addr gives a link addresses in CIDR form, usable at once.
func (h *Host) Addr(ifname string, cidrs ...string) error {
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err == nil {
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
	if err == nil {
		err = h.links.Route(p, gw)
	}
	if err != nil {
		return fmt.Errorf("in %s: %w", h.Name, err)
	}
	return nil
}
