// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// abandon closes the handles like the exit of a killed process: everything stays in place.
func (n *Network) abandon(t *testing.T) {
	t.Helper()
	if err := n.Release(); err != nil {
		t.Error(err)
	}
}

// What a crashed process left is adopted or replaced, whatever state it is a.
func TestAdopts(t *testing.T) {
	pair := func(name, peer string) func(*testing.T, *netlab.Host, string) {
		return func(t *testing.T, host *netlab.Host, _ string) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			if err := netlinkOf(t, host).LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, leave := range map[string]func(t *testing.T, host *netlab.Host, name string){
		"Everything": func(*testing.T, *netlab.Host, string) {},
		"StaleName": func(t *testing.T, _ *netlab.Host, name string) {
			if err := netns.Delete(name); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(netns.Path(name), nil, 0); err != nil {
				t.Fatal(err)
			}
		},
		"NoName": func(t *testing.T, _ *netlab.Host, name string) {
			if err := netns.Delete(name); err != nil {
				t.Fatal(err)
			}
		},
		"NoLink": func(t *testing.T, host *netlab.Host, _ string) {
			if err := removeLinks(netlinkOf(t, host), "sotto0"); err != nil {
				t.Fatal(err)
			}
		},
		"BothEndsOnTheHost": func(t *testing.T, host *netlab.Host, name string) {
			if err := removeLinks(netlinkOf(t, host), "sotto0"); err != nil {
				t.Fatal(err)
			}
			pair("sotto0", "sotto1")(t, host, name)
		},
		"InnerEndOnTheHost": func(t *testing.T, host *netlab.Host, name string) {
			if err := removeLinks(netlinkOf(t, host), "sotto0"); err != nil {
				t.Fatal(err)
			}
			pair("sotto1", "other")(t, host, name)
		},
		"OnlyUnreachableRoutes": func(t *testing.T, host *netlab.Host, name string) {
			if err := errors.Join(removeLinks(netlinkOf(t, host), "sotto0"), netns.Delete(name)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, host, _ := labtest.LAN(t)
			before := hostState(t, host)
			dead := newTestNetwork(t, host)
			dead.abandon(t)
			leave(t, host, dead.cfg.Name)
			n := adoptTestNetwork(t, host)
			if err := n.whole(); err != nil {
				t.Error(err)
			}
			if err := n.Close(nil); err != nil {
				t.Fatal(err)
			}
			if after := hostState(t, host); after != before {
				t.Errorf("leftovers:\n%s\nwant:\n%s", after, before)
			}
		})
	}
}

// adoptTestNetwork is newTestNetwork in a namespace that may still contain echo servers.
func adoptTestNetwork(t *testing.T, host *netlab.Host) *testNetwork {
	t.Helper()
	n, err := openNetwork(t, host, testConfig(host))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err != nil {
		t.Fatal(err)
	}
	tn := &testNetwork{Network: n, t: t, at: host, logs: &labtest.LogBuffer{}}
	for _, addr := range []string{slot4, slot6} {
		if !tn.hasEcho(addr) {
			tn.echo(addr)
		}
	}
	return tn
}

// hasEcho reports whether the namespace has an echo server at an address: then no other
// socket can bind it.
func (n *testNetwork) hasEcho(addr string) bool {
	n.t.Helper()
	var pc net.PacketConn
	err := n.Do(func() (err error) { pc, err = net.ListenPacket("udp", addr); return err })
	if err != nil {
		return true
	}
	pc.Close()
	return false
}

// A restart with other prefixes removes the routes to the old ones, once nothing uses them.
func TestChangesPrefix(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	before := hostState(t, host)
	newTestNetwork(t, host).abandon(t)
	cfg := testConfig(host)
	cfg.Prefix4 = netip.MustParsePrefix("10.99.0.0/16")
	cfg.Prefix6 = netip.MustParsePrefix("fd99::/64")
	n, err := openNetwork(t, host, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ensure(); err != nil {
		t.Fatal(err)
	}
	if state := hostState(t, host); strings.Count(state, "198.19.0.0") != 2 || !strings.Contains(state, "fd73:") {
		t.Errorf("the routes to the old prefixes are:\n%s", state)
	}
	if err := n.RemoveOld(); err != nil {
		t.Fatal(err)
	}
	if state := hostState(t, host); strings.Contains(state, "198.19.0.0") || strings.Contains(state, "fd73:") {
		t.Errorf("routes to the old prefixes were not removed:\n%s", state)
	}
	tn := &testNetwork{Network: n, t: t, at: host}
	tn.echo("10.99.0.9:53")
	if _, err := ask(host, "10.99.0.9:53", 64); err != nil {
		t.Error(err)
	}
	if err := n.Close(nil); err != nil {
		t.Fatal(err)
	}
	if after := hostState(t, host); after != before {
		t.Errorf("leftovers:\n%s\nwant:\n%s", after, before)
	}
}

func TestRefusesConflicts(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	h := netlinkOf(t, host)
	route := func(dst string) *netlink.Route {
		return &netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), LinkIndex: link(t, h, netlab.HostIf).Attrs().Index}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "sotto0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	name := testConfig(host).Name
	for _, tt := range []struct {
		name     string
		do, undo func() error
		want     []string
	}{
		{"Route4", func() error { return h.RouteAdd(route("198.19.4.0/24")) }, func() error { return h.RouteDel(route("198.19.4.0/24")) },
			[]string{"198.19.4.0/24 dev eth0", "set prefix4"}},
		{"Route6", func() error { return h.RouteAdd(route("fd73:6f74:746f::/64")) }, func() error { return h.RouteDel(route("fd73:6f74:746f::/64")) },
			[]string{"fd73:6f74:746f::/64 dev eth0", "set prefix6"}},
		{"Address", func() error { return host.Addr("lo", "198.19.7.7/32") }, func() error {
			return h.AddrDel(link(t, h, "lo"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("198.19.7.7/32"))})
		}, []string{"local 198.19.7.7/32 dev lo", "set prefix4"}},
		{"LinkOfAnotherKind", func() error { return h.LinkAdd(bridge) }, func() error { return h.LinkDel(bridge) },
			[]string{"sotto0", "bridge", "rename"}},
		{"NamespaceInUse", func() error {
			ns, err := netns.New(name)
			if err != nil {
				return err
			}
			defer ns.Close()
			inner, err := ns.Netlink()
			if err != nil {
				return err
			}
			defer inner.Close()
			a := netlink.NewLinkAttrs()
			a.Name = "work0"
			return errors.Join(inner.LinkAdd(&netlink.Bridge{LinkAttrs: a}), inner.LinkSetUp(&netlink.Bridge{LinkAttrs: a}))
		}, func() error {
			ns, err := netns.Open(name)
			if err != nil {
				return fmt.Errorf("the name of the other namespace was deleted: %w", err)
			}
			return errors.Join(ns.Close(), netns.Delete(name))
		}, []string{"work0", "ip netns del " + name}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := openNetwork(t, host, testConfig(host))
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			before := hostState(t, host)
			failed, err := openNetwork(t, host, testConfig(host))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(failed.Ensure(), failed.Close(nil)); err == nil {
				t.Error("no conflict")
			}
			if after := hostState(t, host); after != before {
				t.Errorf("a start that failed left:\n%s\nwant:\n%s", after, before)
			}
			err = n.Ensure()
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("ensure: %v, want %q in it", err, want)
				}
			}
			if err := tt.undo(); err != nil {
				t.Fatal(err)
			}
			if err := n.Ensure(); err != nil {
				t.Errorf("ensure after the conflict was removed: %v", err)
			}
			if err := n.Close(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Name: "x", Link: "sotto", Prefix4: DefaultPrefix4, Prefix6: DefaultPrefix6}
	for want, change := range map[string]func(*Config){
		"prefix4":        func(c *Config) { c.Prefix4 = netip.Prefix{} },
		"prefix6":        func(c *Config) { c.Prefix6 = c.Prefix4 },
		"link base name": func(c *Config) { c.Link = "fifteen-letters" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want %q in it", err, want)
		}
	}
}

// With two instances and a route of another program, each instance gets a name and prefixes
// of its own, both work, and clearing one does not affect the other.
func TestInstancesSideBySide(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	eth := link(t, netlinkOf(t, host), netlab.HostIf).Attrs().Index
	foreign := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("198.18.5.0/24")), LinkIndex: eth}
	if err := netlinkOf(t, host).RouteAdd(foreign); err != nil {
		t.Fatal(err)
	}
	main := newTestNetwork(t, host)
	before := hostState(t, host)
	taken := map[string]bool{}
	open := func() *testNetwork {
		var a Assignment
		err := host.Do(func() (err error) {
			a, err = PickAssignment(func(name string) bool { return taken[name] })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		taken[a.Name] = true
		n, err := openNetwork(t, host, Config{
			Name: host.Name + a.Name, Link: a.Link, Prefix4: a.Prefix4, Prefix6: a.Prefix6,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Ensure(); err != nil {
			t.Fatal(err)
		}
		tn := &testNetwork{Network: n, t: t, at: host, logs: &labtest.LogBuffer{}}
		for _, p := range []netip.Prefix{a.Prefix4, a.Prefix6} {
			addr := net.JoinHostPort(NthAddr(p, FirstSlot).String(), "53")
			tn.echo(addr)
			if _, err := ask(host, addr, 64); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		}
		return tn
	}
	first, second := open(), open()
	if first.cfg.Prefix4.String() != "198.18.0.0/22" || second.cfg.Prefix4.String() != "198.18.8.0/22" {
		t.Errorf("picked %s and %s; want 198.18.0.0/22, and 198.18.8.0/22 after the other route", first.cfg.Prefix4, second.cfg.Prefix4)
	}
	for _, n := range []*testNetwork{first, second} {
		n.abandon(t)
		for range 2 {
			err := host.Do(func() error { return Clear(n.cfg.Name, n.cfg.Link, nil, n.cfg.Prefix4, n.cfg.Prefix6) })
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Lstat(netns.Path(n.cfg.Name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was not removed: %v", n.cfg.Name, err)
		}
	}
	if after := hostState(t, host); after != before {
		t.Errorf("leftovers:\n%s\nwant:\n%s", after, before)
	}
	if err := main.whole(); err != nil {
		t.Errorf("the instance that was not cleared: %v", err)
	}
	err := host.Do(func() error {
		_, err := PickAssignment(func(string) bool { return true })
		return err
	})
	if err == nil {
		t.Error("assignment 65 was picked")
	}
}

// Clear finds prefixes that it is not given by the link.
func TestClearFindsPrefixes(t *testing.T) {
	_, host, _ := labtest.LAN(t)
	before := hostState(t, host)
	n := newTestNetwork(t, host)
	n.abandon(t)
	if err := host.Do(func() error { return Clear(n.cfg.Name, n.cfg.Link, nil) }); err != nil {
		t.Fatal(err)
	}
	if after := hostState(t, host); after != before {
		t.Errorf("leftovers:\n%s\nwant:\n%s", after, before)
	}
	if hasRoute(t, netlinkOf(t, host), DefaultPrefix4.String(), unix.RTN_UNREACHABLE) {
		t.Error("the unreachable route was not removed")
	}
}
