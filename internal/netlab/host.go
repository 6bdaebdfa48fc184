// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"sotto/internal/netns"
)

// Host is one machine of a lab: a network namespace with its loopback interface up.
type Host struct {
	Name string    // of the namespace, as in ip-netns
	NS   *netns.NS // closed with the lab

	links *netns.Links
}

// Host adds a machine. Its name must be unique in the lab.
func (l *Lab) Host(name string) (*Host, error) {
	h := &Host{Name: l.name + "-" + name}
	var err error
	if h.NS, err = netns.New(h.Name); err != nil {
		return nil, err
	}
	l.onClose(func() error { return errors.Join(netns.Delete(h.Name), h.NS.Close()) })
	if h.links, err = h.NS.Links(); err != nil {
		return nil, err
	}
	l.onClose(h.links.Close)

	// A new namespace inherits the IPv4 settings of its creator and has the default
	// IPv6 settings. A lab has the same settings on every machine.
	if err := h.Sysctl(
		"net/ipv4/ip_forward", "0", "net/ipv4/conf/all/rp_filter", "0", "net/ipv4/conf/default/rp_filter", "0",
		"?net/ipv6/conf/all/disable_ipv6", "0", "?net/ipv6/conf/default/disable_ipv6", "0",
		"?net/ipv6/conf/all/accept_dad", "0", "?net/ipv6/conf/default/accept_dad", "0",
		"?net/ipv6/conf/default/accept_ra", "0",
	); err != nil {
		return nil, err
	}
	return h, h.links.Up("lo")
}

// Do runs fn in the network namespace of the host; see netns.NS.Do.
func (h *Host) Do(fn func() error) error { return h.NS.Do(fn) }

// Sysctl sets sysctls in the host. Arguments are pairs of a path below /proc/sys and a
// value. A path with a leading question mark is skipped if the kernel lacks it.
func (h *Host) Sysctl(pairs ...string) error {
	return h.Do(func() error {
		for i := 0; i+1 < len(pairs); i += 2 {
			path, optional := strings.CutPrefix(pairs[i], "?")
			err := os.WriteFile("/proc/sys/"+path, []byte(pairs[i+1]), 0)
			if err != nil && !(optional && errors.Is(err, os.ErrNotExist)) {
				return fmt.Errorf("set %s in %s: %w", path, h.Name, err)
			}
		}
		return nil
	})
}

// Addr adds addresses in CIDR form to a link. They are usable when it returns.
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

// Route adds a route to dst, in CIDR form, through the gateway via.
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

// Wire connects two hosts by a veth pair, aIf in a and bIf in b. The link is up when it
// returns.
func (l *Lab) Wire(a *Host, aIf string, b *Host, bIf string) error {
	if err := a.links.Wire(aIf, b.links, bIf); err != nil {
		return fmt.Errorf("connect %s to %s: %w", a.Name, b.Name, err)
	}
	return nil
}

// HasIPv6 reports whether this kernel has IPv6. Without it (ipv6.disable=1), a lab has
// only IPv4: Addr and Route ignore IPv6 arguments.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// ignored reports whether the kernel lacks the address family of p.
func ignored(p netip.Prefix) bool { return p.Addr().Is6() && !HasIPv6() }
