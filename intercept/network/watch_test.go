// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// link returns the link with that name.
func link(t *testing.T, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Whatever another program changes is repaired soon, and logged.
func TestRepairs(t *testing.T) {
	l, host, _ := labtest.LAN(t)
	other := labtest.Host(t, l, "other")
	n := newTestNetwork(t, host)
	n.keepRunning()
	h := netlinkOf(t, host)
	real4 := &netlink.Route{Dst: ipNet(DefaultPrefix4), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	real6 := &netlink.Route{Dst: ipNet(DefaultPrefix6), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Priority: 1024}

	for _, tt := range []struct {
		name, log string
		do        func() error
	}{
		{"DeleteLink", "links", func() error { return removeLinks(h, "sotto0") }},
		{"DeleteInnerLink", "links", func() error { return removeLinks(n.inner, "sotto1") }},
		{"LinkDown", "state of link sotto0", func() error { return h.LinkSetDown(link(t, h, "sotto0")) }},
		{"InnerLinkDown", "state of link sotto1", func() error { return n.inner.LinkSetDown(link(t, n.inner, "sotto1")) }},
		{"LinkMoved", "links", func() error {
			return h.LinkSetNsFd(link(t, h, "sotto0"), other.NS.Fd())
		}},
		{"InnerLinkMoved", "links", func() error {
			return n.inner.LinkSetNsFd(link(t, n.inner, "sotto1"), other.NS.Fd())
		}},
		{"OtherAddress", "links", func() error {
			return h.LinkSetHardwareAddr(link(t, h, "sotto0"), net.HardwareAddr{2, 0, 0, 0, 0, 9})
		}},
		{"DeleteRoute4", "route 198.19", func() error { return h.RouteDel(real4) }},
		{"DeleteRoute6", "route fd73", func() error { return h.RouteDel(real6) }},
		{"DeleteUnreachable4", "unreachable route for 198.19", func() error { return h.RouteDel(unreachableRoute(DefaultPrefix4)) }},
		{"DeleteUnreachable6", "unreachable route for fd73", func() error { return h.RouteDel(unreachableRoute(DefaultPrefix6)) }},
		{"DeleteInnerRoute", "inner route for 0.0.0.0/0", func() error {
			return n.inner.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))})
		}},
		{"DeleteName", "name of the namespace", func() error { return netns.Delete(n.cfg.Name) }},
		{"OtherNamespaceByName", "name of the namespace", func() error {
			if err := netns.Delete(n.cfg.Name); err != nil {
				return err
			}
			other, err := netns.New(n.cfg.Name)
			if errors.Is(err, fs.ErrExist) {
				return nil // the repair was faster
			}
			if err != nil {
				return err
			}
			return other.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			labtest.Eventually(t, n.whole)
			n.logs.Take()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			logged := ""
			labtest.Eventually(t, func() error {
				logged += n.logs.Take()
				if !strings.Contains(logged, tt.log) || !strings.Contains(logged, "level=WARN") {
					return fmt.Errorf("logged %q, want a warning of %q", logged, tt.log)
				}
				return n.whole()
			})
		})
	}
}

// The source address is that of the default route, or any other of the host, or a reserved one.
// The IPv6 prefix is routed while a link has IPv6, even without a default route.
func TestFollowsDefaultRoute(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	n := newTestNetwork(t, host)
	var changes atomic.Int32
	n.cfg.OnChange = func() { changes.Add(1) }
	n.keepRunning()
	h := netlinkOf(t, host)
	eth := link(t, h, netlab.HostIf)
	addr := func(cidr string) *netlink.Addr {
		return &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(cidr)), Flags: unix.IFA_F_NODAD}
	}
	default6 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), Gw: net.ParseIP(netlab.LANAddr6)}
	default4 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.ParseIP(netlab.LANAddr4)}

	const last6 = "fd73:6f74:746f::1" // the link has a link-local address
	for _, tt := range []struct {
		name, from4, from6 string // "" is unreachable
		changes            bool
		do                 func() error
	}{
		{"Unchanged", netlab.HostAddr4, netlab.HostAddr6, false, func() error { return nil }},
		{"DocumentationNet", netlab.HostAddr4, "2001:db8::77", true, func() error {
			// A machine may have an address in a network that is looked up. Its
			// default route prefers a global IPv6 source address to a unique
			// local one (RFC 6724), and uses the first IPv4 address.
			return errors.Join(h.AddrAdd(eth, addr("192.0.2.77/24")), h.AddrAdd(eth, addr("2001:db8::77/64")))
		}},
		{"DocumentationNetRemoved", netlab.HostAddr4, netlab.HostAddr6, true, func() error {
			return errors.Join(h.AddrDel(eth, addr("192.0.2.77/24")), h.AddrDel(eth, addr("2001:db8::77/64")))
		}},
		{"Default6Removed", netlab.HostAddr4, netlab.HostAddr6, true, func() error { return h.RouteDel(default6) }},
		{"Default6Restored", netlab.HostAddr4, netlab.HostAddr6, true, func() error { return h.RouteAdd(default6) }},
		{"Address6Removed", netlab.HostAddr4, last6, true, func() error {
			return errors.Join(h.AddrDel(eth, addr(netlab.HostAddr6+"/64")), h.RouteDel(default6))
		}},
		{"OtherAddress4", "10.77.0.3", last6, true, func() error {
			return errors.Join(h.AddrDel(eth, addr(netlab.HostAddr4+"/24")), h.AddrAdd(eth, addr("10.77.0.3/24")), h.RouteAdd(default4))
		}},
		{"Default4Removed", "10.77.0.3", last6, true, func() error { return h.RouteDel(default4) }},
		{"NoAddress", "198.19.0.1", last6, false, func() error { return h.AddrDel(eth, addr("10.77.0.3/24")) }},
		{"LinkDown", "198.19.0.1", "", false, func() error { return h.LinkSetDown(eth) }},
		{"AllRestored", netlab.HostAddr4, netlab.HostAddr6, true, func() error {
			return errors.Join(h.LinkSetUp(eth), h.AddrAdd(eth, addr(netlab.HostAddr4+"/24")), h.AddrAdd(eth, addr(netlab.HostAddr6+"/64")),
				h.RouteAdd(default4), h.RouteAdd(default6))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := changes.Load()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			labtest.Eventually(t, func() error {
				if tt.changes && changes.Load() == before {
					return errors.New("OnChange was not called")
				}
				return errors.Join(wantSource(host, slot4, tt.from4), wantSource(host, slot6, tt.from6))
			})
			// If no change was expected, a wrong one may come late.
			if err := n.Ensure(); err != nil {
				t.Error(err)
			}
			labtest.Eventually(t, func() error {
				return errors.Join(wantSource(host, slot4, tt.from4), wantSource(host, slot6, tt.from6))
			})
		})
	}
	if addrs, err := h.AddrList(link(t, h, "sotto0"), netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
		t.Errorf("the fallback address was not removed: %v, %v", addrs, err)
	}
	if logged := n.logs.Take(); logged != "" {
		t.Errorf("following the host's addresses is not a repair, but was logged: %s", logged)
	}
}

// The permanent neighbours survive the removal of the fallback address, and the next
// reconciliation has nothing to repair.
func TestKeepsNeighbours(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	n := newTestNetwork(t, host)
	h := netlinkOf(t, host)
	eth := link(t, h, netlab.HostIf)
	own := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(netlab.HostAddr4 + "/24"))}
	default4 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.ParseIP(netlab.LANAddr4)}
	for _, tt := range []struct {
		name     string
		fallback int
		do       func() error
	}{
		{"NoAddress", 1, func() error { return h.AddrDel(eth, own) }},
		{"AddressRestored", 0, func() error { return errors.Join(h.AddrAdd(eth, own), h.RouteAdd(default4)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.takeRepairs()
			if err := errors.Join(tt.do(), n.Ensure()); err != nil {
				t.Fatal(err)
			}
			sotto0 := link(t, h, "sotto0")
			if addrs, err := h.AddrList(sotto0, netlink.FAMILY_V4); err != nil || len(addrs) != tt.fallback {
				t.Errorf("addresses on the link: %v, %v; want %d", addrs, err, tt.fallback)
			}
			known, err := h.NeighList(sotto0.Attrs().Index, netlink.FAMILY_V4)
			if err != nil || !hasNeighbour(known, NthAddr(DefaultPrefix4, reservedInner).AsSlice(), MACInner) {
				t.Errorf("the other end is not a permanent neighbour: %v, %v", known, err)
			}
			if err := n.Ensure(); err != nil {
				t.Fatal(err)
			}
			if made := n.takeRepairs(); len(made) > 0 {
				t.Errorf("following the host's addresses is not a repair, but made: %v", made)
			}
		})
	}
}

// If IPv6 is disabled on the host, IPv4 works and the IPv6 prefix is unreachable.
func TestWithoutIPv6(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	if err := host.Sysctl("?net/ipv6/conf/all/disable_ipv6", "1", "?net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	n, err := openNetwork(t, host, testConfig(host))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err != nil {
		t.Fatal(err)
	}
	tn := &testNetwork{Network: n, t: t, at: host}
	tn.echo(slot4)
	if err := wantSource(host, slot4, netlab.HostAddr4); err != nil {
		t.Error(err)
	}
	if _, err := ask(host, slot6, 64); err == nil {
		t.Errorf("%s answers on a host without IPv6", slot6)
	}
	if err := n.Close(nil); err != nil {
		t.Error(err)
	}
}

// wantSource checks the source address of a packet to a slot; "" means unreachable.
func wantSource(host *netlab.Host, addr, want string) error {
	src, err := ask(host, addr, 64)
	switch {
	case want == "" && !errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("query to %s: %v, want EHOSTUNREACH", addr, err)
	case want == "":
		return nil
	case err != nil:
		return err
	case src.String() != want:
		return fmt.Errorf("the source address to %s is %s, want %s", addr, src, want)
	}
	return nil
}

// A policy routing rule that comes before the main table is reported.
func TestPolicyRouting(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	n, err := openNetwork(t, host, testConfig(host))
	if err != nil {
		t.Fatal(err)
	}
	h := netlinkOf(t, host)
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.ParseIP(netlab.LANAddr4), Table: 77}); err != nil {
		t.Fatal(err)
	}
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Family = 77, 100, netlink.FAMILY_V4
	if err := h.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err == nil || !strings.Contains(err.Error(), "ip rule add to 198.19.0.0/16 lookup main") {
		t.Errorf("ensure: %v, want the rule that fixes it", err)
	}
	if err := h.RuleDel(rule); err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err != nil {
		t.Error(err)
	}
}

// Events that cannot affect the network are ignored.
func TestIsRelevantRoute(t *testing.T) {
	n := &Network{cfg: Config{Prefix4: DefaultPrefix4, Prefix6: DefaultPrefix6}}
	route := func(dst string, flags uint32, protocol byte) []byte {
		p := netip.MustParsePrefix(dst)
		b := make([]byte, unix.SizeofRtMsg)
		b[1], b[5] = byte(p.Bits()), protocol
		b[8], b[9] = byte(flags), byte(flags>>8)
		a := p.Addr().AsSlice()
		b = append(b, byte(4+len(a)), 0, unix.RTA_DST, 0)
		return append(b, a...)
	}
	for _, tt := range []struct {
		data []byte
		want bool
	}{
		{route("0.0.0.0/0", 0, 3), true},
		{route("128.0.0.0/1", 0, 3), true},
		{route("::/0", 0, 9), true},
		{route("198.19.4.0/24", 0, 3), true},
		{route("198.18.0.0/15", 0, 3), true},
		{route("fd73:6f74:746f::/64", 0, 3), true},
		{route("203.0.113.0/24", 0, 186), false},
		{route("203.0.113.0/24", 0, byte(routeProtocol)), true},
		{route("2001:db8::/32", 0, 186), false},
		{route("fd73:6f74:746f::1/128", unix.RTM_F_CLONED, 3), false},
		{nil, false},
	} {
		if got := n.isRelevantRoute(tt.data); got != tt.want {
			t.Errorf("route %x is relevant: %v, want %v", tt.data, got, tt.want)
		}
	}
}
