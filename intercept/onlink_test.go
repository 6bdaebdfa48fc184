// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// A nameserver on a link of the host is answered for without a default route, also if the
// host has link-local addresses only.
func TestOnLinkWithoutDefaultRoute(t *testing.T) {
	s := openSeal(t, nil)
	s.run(t)
	s.wire(t)
	// The LAN goes on: without its default route the host's link would be that of a container.
	addTunnel(t, s.lan, "card")
	h, err := s.host.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	eth, err := h.LinkByName(netlab.HostIf)
	if err != nil {
		t.Fatal(err)
	}
	for _, gateway := range []string{netlab.LANAddr4, netlab.LANAddr6} {
		dst := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		if net.ParseIP(gateway).To4() != nil {
			dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		}
		if err := h.RouteDel(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway)}); err != nil {
			t.Fatal(err)
		}
	}
	const ask = `
		socket a udp6 => ok
		sendto a [NS6]:53 => ok
		recv a => [NS6]:53W from [NS6]:53
		connect a [NS6]:53 => ok
		send a => ok
		recv a => [NS6]:53W from [NS6]:53
		peer a => [NS6]:53
		name a => SRC6
		socket b tcp6 => ok
		connect b [NS6]:53 => ok
		send b => ok
		recv b => [NS6]:53W
		close b => ok`
	script := func(nameserver, source string) string {
		return strings.NewReplacer("NS6", nameserver, "SRC6", source, "W", s.about("")).Replace(ask)
	}
	// The running instance handles the changes.
	virtual := network.NthAddr(s.cfg.Prefix6, network.FirstSlot).AsSlice()
	waitSource := func(want string) {
		t.Helper()
		labtest.Eventually(t, func() error {
			routes, err := h.RouteGet(virtual)
			if err != nil || len(routes) != 1 || !routes[0].Src.Equal(net.ParseIP(want)) {
				return fmt.Errorf("the routes to virtual addresses are %v, %w", routes, err)
			}
			own, err := h.RouteGet(net.ParseIP(want))
			if err != nil || len(own) != 1 || own[0].Type != unix.RTN_LOCAL {
				return fmt.Errorf("the routes to %s are %v, %w", want, own, err)
			}
			return nil
		})
	}
	waitSource(netlab.HostAddr6)
	c := s.client(t)
	c.Want(script(netlab.LANAddr6, netlab.HostAddr6))
	c.Want(strings.ReplaceAll(`
		socket e udp4 => ok
		sendto e 10.77.0.1:53 => ok
		recv e => 10.77.0.1:53W from 10.77.0.1:53`, "W", s.about("")))

	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(netlab.HostAddr6), Mask: net.CIDRMask(64, 128)}}
	if err := h.AddrDel(eth, addr); err != nil {
		t.Fatal(err)
	}
	last := netip.MustParseAddr("fd73:6f74:746f:fff::1").String() // of the prefix
	waitSource(last)
	c.Want(script("fd77::53", last))
	c.Want(strings.ReplaceAll(`
		socket g tcp6 => ok
		connect g [fe80::53%eth0]:53 => ok
		send g => ok
		recv g => [fe80::53]:53W`, "W", s.about("")))
}

// A socket that bypasses gateways cannot reach the listener over IPv4, and sends nothing; IPv6
// ignores the option.
func TestDontRoute(t *testing.T) {
	s := openSeal(t, nil)
	s.wire(t)
	s.client(t).Want(strings.ReplaceAll(`
		socket a udp4 => ok
		dontroute a => ok
		sendto a 10.77.0.1:53 => ENETUNREACH
		connect a 10.77.0.1:53 => ENETUNREACH
		socket b tcp4 => ok
		dontroute b => ok
		connect b 10.77.0.1:53 => ENETUNREACH
		socket c udp6 => ok
		dontroute c => ok
		sendto c [fd77::1]:53 => ok
		recv c => [fd77::1]:53W from [fd77::1]:53`, "W", s.about("")))
}
