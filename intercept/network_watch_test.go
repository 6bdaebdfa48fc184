// SPDX-License-Identifier: Apache-2.0

package intercept

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

// link finds what a test is about to break.
func link(t *testing.T, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Whatever somebody does to it, the network is whole again soon, and says so.
func TestNetworkRepairs(t *testing.T) {
	l, host, _ := labtest.LAN(t)
	elsewhere := labtest.Host(t, l, "elsewhere")
	n := newTestNetwork(t, host)
	n.keepRunning()
	h := netlinkOf(t, host)
	real4 := &netlink.Route{Dst: ipNet(defaultPrefix4), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	real6 := &netlink.Route{Dst: ipNet(defaultPrefix6), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Priority: 1024}

	for _, tt := range []struct {
		name, log string
		do        func() error
	}{
		{"DeleteLink", "links", func() error { return removeLinks(h, "sotto0") }},
		{"DeleteInnerLink", "links", func() error { return removeLinks(n.inner, "sotto1") }},
		{"LinkDown", "state of link sotto0", func() error { return h.LinkSetDown(link(t, h, "sotto0")) }},
		{"InnerLinkDown", "state of link sotto1", func() error { return n.inner.LinkSetDown(link(t, n.inner, "sotto1")) }},
		{"LinkElsewhere", "links", func() error {
			return h.LinkSetNsFd(link(t, h, "sotto0"), elsewhere.NS.Fd())
		}},
		{"InnerLinkElsewhere", "links", func() error {
			return n.inner.LinkSetNsFd(link(t, n.inner, "sotto1"), elsewhere.NS.Fd())
		}},
		{"OtherAddress", "links", func() error {
			return h.LinkSetHardwareAddr(link(t, h, "sotto0"), net.HardwareAddr{2, 0, 0, 0, 0, 9})
		}},
		{"DeleteRoute4", "route 198.19", func() error { return h.RouteDel(real4) }},
		{"DeleteRoute6", "route fd73", func() error { return h.RouteDel(real6) }},
		{"DeleteTwin4", "unreachable route for 198.19", func() error { return h.RouteDel(twin(defaultPrefix4)) }},
		{"DeleteTwin6", "unreachable route for fd73", func() error { return h.RouteDel(twin(defaultPrefix6)) }},
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
				return nil // the repair was quicker
			}
			if err != nil {
				return err
			}
			return other.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eventually(t, n.whole)
			n.logs.take()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			logged := ""
			eventually(t, func() error {
				logged += n.logs.take()
				if !strings.Contains(logged, tt.log) || !strings.Contains(logged, "level=WARN") {
					return fmt.Errorf("logged %q, want a warning of %q", logged, tt.log)
				}
				return n.whole()
			})
		})
	}
}

// The source address is what the default route would use, and IPv6 is routed
// only while it is usable.
func TestNetworkFollowsTheWayOut(t *testing.T) {
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

	for _, tt := range []struct {
		name, from4, from6 string // "" is unreachable
		changes            bool
		do                 func() error
	}{
		{"AsMade", netlab.HostAddr4, netlab.HostAddr6, false, func() error { return nil }},
		{"DocumentationNet", netlab.HostAddr4, "2001:db8::77", true, func() error {
			// A machine may be at home in a network that is looked up. Its
			// default route gives a global IPv6 address before a local one
			// (RFC 6724), and the first IPv4 address.
			return errors.Join(h.AddrAdd(eth, addr("192.0.2.77/24")), h.AddrAdd(eth, addr("2001:db8::77/64")))
		}},
		{"DocumentationNetGone", netlab.HostAddr4, netlab.HostAddr6, true, func() error {
			return errors.Join(h.AddrDel(eth, addr("192.0.2.77/24")), h.AddrDel(eth, addr("2001:db8::77/64")))
		}},
		{"Default6Gone", netlab.HostAddr4, "", true, func() error { return h.RouteDel(default6) }},
		{"Default6Back", netlab.HostAddr4, netlab.HostAddr6, true, func() error { return h.RouteAdd(default6) }},
		{"Address6Gone", netlab.HostAddr4, "", true, func() error {
			return errors.Join(h.AddrDel(eth, addr(netlab.HostAddr6+"/64")), h.RouteDel(default6))
		}},
		{"OtherAddress4", "10.77.0.3", "", true, func() error {
			return errors.Join(h.AddrDel(eth, addr(netlab.HostAddr4+"/24")), h.AddrAdd(eth, addr("10.77.0.3/24")), h.RouteAdd(default4))
		}},
		{"Default4Gone", "10.77.0.3", "", true, func() error { return h.RouteDel(default4) }},
		{"NoAddressAtAll", "198.19.0.1", "", false, func() error { return h.AddrDel(eth, addr("10.77.0.3/24")) }},
		{"LinkDown", "198.19.0.1", "", false, func() error { return h.LinkSetDown(eth) }},
		{"AllBack", netlab.HostAddr4, netlab.HostAddr6, true, func() error {
			return errors.Join(h.LinkSetUp(eth), h.AddrAdd(eth, addr(netlab.HostAddr4+"/24")), h.AddrAdd(eth, addr(netlab.HostAddr6+"/64")),
				h.RouteAdd(default4), h.RouteAdd(default6))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := changes.Load()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if tt.changes && changes.Load() == before {
					return errors.New("OnChange was not called")
				}
				return errors.Join(askedFrom(host, slot4, tt.from4), askedFrom(host, slot6, tt.from6))
			})
			// Where nothing was to change, the change may be late and wrong.
			if err := n.ensure(); err != nil {
				t.Error(err)
			}
			eventually(t, func() error {
				return errors.Join(askedFrom(host, slot4, tt.from4), askedFrom(host, slot6, tt.from6))
			})
		})
	}
	if addrs, err := h.AddrList(link(t, h, "sotto0"), netlink.FAMILY_V4); err != nil || len(addrs) != 0 {
		t.Errorf("the fallback address stayed: %v, %v", addrs, err)
	}
	if logged := n.logs.take(); logged != "" {
		t.Errorf("following the host's addresses is no repair, yet it logged: %s", logged)
	}
}

// The link that loses the fallback address keeps its permanent neighbours, and
// nothing is left for the next look to repair.
func TestNetworkKeepsNeighbours(t *testing.T) {
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
		{"NoAddressAtAll", 1, func() error { return h.AddrDel(eth, own) }},
		{"AddressBack", 0, func() error { return errors.Join(h.AddrAdd(eth, own), h.RouteAdd(default4)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.takeRepairs()
			if err := errors.Join(tt.do(), n.ensure()); err != nil {
				t.Fatal(err)
			}
			sotto0 := link(t, h, "sotto0")
			if addrs, err := h.AddrList(sotto0, netlink.FAMILY_V4); err != nil || len(addrs) != tt.fallback {
				t.Errorf("addresses on the link: %v, %v; want %d", addrs, err, tt.fallback)
			}
			known, err := h.NeighList(sotto0.Attrs().Index, netlink.FAMILY_V4)
			if err != nil || !hasNeighbour(known, nthAddr(defaultPrefix4, reservedInner).AsSlice(), macInner) {
				t.Errorf("the other end is no permanent neighbour: %v, %v", known, err)
			}
			if err := n.ensure(); err != nil {
				t.Fatal(err)
			}
			if made := n.takeRepairs(); len(made) > 0 {
				t.Errorf("following the host's addresses is no repair, yet it made: %v", made)
			}
		})
	}
}

// With IPv6 switched off on the host, IPv4 is carried and the IPv6 prefix dead.
func TestNetworkWithoutIPv6(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	if err := host.Sysctl("?net/ipv6/conf/all/disable_ipv6", "1", "?net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	n, err := openNetwork(t, host, testConfig(host))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ensure(); err != nil {
		t.Fatal(err)
	}
	tn := &testNetwork{network: n, t: t, at: host}
	tn.echo(slot4)
	if err := askedFrom(host, slot4, netlab.HostAddr4); err != nil {
		t.Error(err)
	}
	if _, err := ask(host, slot6, 64); err == nil {
		t.Errorf("%s answers on a host without IPv6", slot6)
	}
	if err := n.close(nil); err != nil {
		t.Error(err)
	}
}

// askedFrom checks the source address towards a slot; "" is no way at all.
func askedFrom(host *netlab.Host, addr, want string) error {
	src, err := ask(host, addr, 64)
	switch {
	case want == "" && !errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("asking %s: %v, want EHOSTUNREACH", addr, err)
	case want == "":
		return nil
	case err != nil:
		return err
	case src.String() != want:
		return fmt.Errorf("%s is asked from %s, want %s", addr, src, want)
	}
	return nil
}

// A policy rule that leads the prefix past the main table is told, not ignored.
func TestNetworkSeesPolicyRouting(t *testing.T) {
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
	if err := n.ensure(); err == nil || !strings.Contains(err.Error(), "ip rule add to 198.19.0.0/16 lookup main") {
		t.Errorf("ensure: %v, want the rule that mends it", err)
	}
	if err := h.RuleDel(rule); err != nil {
		t.Fatal(err)
	}
	if err := n.ensure(); err != nil {
		t.Error(err)
	}
}

// Events that cannot concern the network are not looked into.
func TestConcernsRoute(t *testing.T) {
	n := &network{cfg: networkConfig{Prefix4: defaultPrefix4, Prefix6: defaultPrefix6}}
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
		if got := n.concernsRoute(tt.data); got != tt.want {
			t.Errorf("route %x concerns the network: %v, want %v", tt.data, got, tt.want)
		}
	}
}
