// SPDX-License-Identifier: Apache-2.0

package network

import (
	"testing"

	"github.com/vishvananda/netlink"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// addTap adds an interface whose other end is unknown, as a network card would be.
func addTap(t *testing.T, at *netlab.Host) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "card0"
	err := at.Do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE})
	})
	if err != nil {
		t.Fatal(err)
	}
	h := netlinkOf(t, at)
	tap := link(t, h, "card0")
	if err := h.LinkSetUp(tap); err != nil {
		t.Fatal(err)
	}
	return tap
}

// A veth leads to namespaces of this machine, until one of them gets another way out.
func TestEnclosedLinks(t *testing.T) {
	l, host, _ := labtest.LAN(t)
	container, nested := labtest.Host(t, l, "container"), labtest.Host(t, l, "nested")
	for _, w := range []struct {
		a      *netlab.Host
		ifname string
		b      *netlab.Host
		peer   string
	}{{host, "ve-c", container, "host0"}, {host, "ve-d", container, "host1"}, {container, "ve-n", nested, "host0"}} {
		if err := l.Wire(w.a, w.ifname, w.b, w.peer); err != nil {
			t.Fatal(err)
		}
	}
	for ifname, cidr := range map[string]string{"ve-c": "10.0.0.1/28", "ve-d": "fd00:7::1/64"} {
		if err := host.Addr(ifname, cidr); err != nil {
			t.Fatal(err)
		}
	}
	n := newTestNetwork(t, host)
	want := func(what string, enclosed bool) {
		t.Helper()
		links, err := n.HostLinks()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, l := range links {
			switch l.Name {
			case "ve-c", "ve-d":
				found++
				if l.IsEnclosed != enclosed || !l.HasSubnet {
					t.Errorf("%s: %+v, want enclosed %v", what, l, enclosed)
				}
			case netlab.HostIf:
				if l.IsEnclosed || !l.IsGateway {
					t.Errorf("%s: %+v", what, l)
				}
			}
		}
		if found != 2 {
			t.Errorf("%s: found %d links", what, found)
		}
	}
	want("a container with a container", true)
	tap := addTap(t, nested)
	want("the inner container has another way out", false)
	h := netlinkOf(t, nested)
	if err := h.LinkSetDown(tap); err != nil {
		t.Fatal(err)
	}
	want("which is down", true)
	if err := h.LinkDel(tap); err != nil {
		t.Fatal(err)
	}
	addTap(t, container)
	want("the container has another way out", false)
}
