// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sotto/intercept/clienttest"
	"sotto/intercept/network"
	"sotto/intercept/spaces"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

func redirectLocal(cfg *Config) { cfg.LocalResolvers = LocalRedirect }

// Queries to loopback and to the host's own addresses are redirected, over UDP and TCP, and
// the client does not notice.
func TestLocalRedirected(t *testing.T) {
	s := openSeal(t, redirectLocal)
	w := s.about("")
	for name, script := range map[string]string{
		"loopback": `
			socket a udp4 => ok
			connect a 127.0.0.53:53 => ok
			peer a => 127.0.0.53:53
			send a => ok
			recv a => 127.0.0.53:53W from 127.0.0.53:53`,
		"loopback, unconnected": `
			socket a udp4 => ok
			sendto a 127.0.0.1:53 => ok
			recv a => 127.0.0.1:53W from 127.0.0.1:53
			sendto a 8.8.8.8:53 => ok
			recv a => 8.8.8.8:53W from 8.8.8.8:53`,
		"loopback, IPv6": `
			socket a udp6 => ok
			connect a [::1]:53 => ok
			peer a => [::1]:53
			send a => ok
			recv a => [::1]:53W from [::1]:53
			socket b udp6 => ok
			sendto b [::1]:53 => ok
			recv b => [::1]:53W from [::1]:53`,
		"loopback, mapped": `
			socket a udp6 => ok
			connect a 127.0.0.53:53 => ok
			peer a => [::ffff:127.0.0.53]:53
			send a => ok
			recv a => 127.0.0.53:53W from [::ffff:127.0.0.53]:53`,
		"loopback, TCP": `
			socket a tcp4 => ok
			connect a 127.0.0.53:53 => ok
			peer a => 127.0.0.53:53
			send a => ok
			recv a => 127.0.0.53:53W
			socket b tcp6 => ok
			connect b [::1]:53 => ok
			send b => ok
			recv b => [::1]:53W`,
		"unspecified": `
			socket a udp4 => ok
			connect a 0.0.0.0:53 => ok
			peer a => 127.0.0.1:53
			send a => ok
			recv a => 127.0.0.1:53W from 127.0.0.1:53
			socket b udp6 => ok
			sendto b [::]:53 => ok
			recv b => [::1]:53W from [::1]:53`,
		"own address": `
			socket a udp4 => ok
			connect a HOST4:53 => ok
			send a => ok
			recv a => HOST4:53W from HOST4:53
			socket b udp6 => ok
			sendto b [HOST6]:53 => ok
			recv b => [HOST6]:53W from [HOST6]:53`,
		"bound to the host's address": `
			socket a udp4 => ok
			from a HOST4:0 => ok
			sendto a HOST4:53 => ok
			recv a => HOST4:53W from HOST4:53`,
		"bound to loopback": `
			socket a udp4 => ok
			from a 127.0.0.1:0 => ok
			sendto a 127.0.0.53:53 => EHOSTUNREACH
			connect a 127.0.0.53:53 => EHOSTUNREACH
			socket b tcp6 => ok
			from b [::1]:0 => ok
			connect b [::1]:53 => EHOSTUNREACH
			socket c udp6 => ok
			from c [::ffff:127.0.0.1]:0 => ok
			sendto c 127.0.0.53:53 => EHOSTUNREACH`,
		"other ports": `
			socket a tcp4 => ok
			connect a 127.0.0.53:54 => ECONNREFUSED`,
	} {
		t.Run(name, func(t *testing.T) {
			before := s.Counters()
			s.client(t).Want(strings.NewReplacer("53W", "53"+w, "EHOSTUNREACH", refusal(), "HOST4", netlab.HostAddr4, "HOST6", netlab.HostAddr6).Replace(script))
			after := s.Counters()
			if n := after["bound_local"] - before["bound_local"]; (n != 0) != (name == "bound to loopback") {
				t.Errorf("bound_local was counted %d times", n)
			}
			if after["local"] != 0 {
				t.Errorf("local was counted %d times", after["local"])
			}
		})
	}
}

// A plain query of a raw socket to a local resolver is stopped.
func TestLocalRedirectedRaw(t *testing.T) {
	s := openSeal(t, redirectLocal)
	c := s.client(t)
	before := s.Counters()
	c.Want("socket a raw4 => ok\nrawto a 127.0.0.53:53 => EPERM\nsocket b raw4 => ok\nrawto b " + netlab.HostAddr4 + ":53 => EPERM")
	if n := s.Counters()["stopped_socket"] - before["stopped_socket"]; n == 0 {
		t.Error("stopped_socket was not counted")
	}
}

// Where local resolvers are kept, queries to loopback, to the host's addresses and to internal
// links are left alone, by hooks and guard. An address that is added or removed counts soon.
func TestLocalKept(t *testing.T) {
	s := openSeal(t, nil)
	s.run(t)
	if _, err := s.lab.Bridge(t.Context(), s.host, "br7", 7); err != nil {
		t.Skip(err)
	}
	c := s.client(t)
	refused := func(addr string) bool {
		got := c.Do("socket a tcp4") + c.Do("connect a %s:53", addr) + c.Do("close a")
		return strings.Contains(got, "ECONNREFUSED")
	}
	until(t, "the bridge to be local", func() bool { return refused("10.88.7.1") })
	if !refused("127.0.0.53") {
		t.Error("127.0.0.53 was redirected")
	}
	// A container on the bridge that does not exist: the query is sent there.
	c.Want("socket b udp4 => ok\nconnect b 10.88.7.9:53 => ok\nname b => 10.88.7.1")
	if n := s.Counters()["local"]; n == 0 {
		t.Error("local was not counted")
	}
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE") // to distinguish the host's namespace, where its external addresses are local
	if !refused(netlab.HostAddr4) {
		t.Errorf("%s was redirected", netlab.HostAddr4)
	}
	c.Want("socket u udp6 => ok\nconnect u [" + netlab.HostAddr6 + "]:53 => ok\nsend u => ok\nrecv u => ECONNREFUSED\n" +
		"socket r raw4 => ok\nrawto r " + netlab.HostAddr4 + ":53 => ok")
	if err := s.host.Addr(netlab.HostIf, "10.77.0.99/32"); err != nil {
		t.Fatal(err)
	}
	until(t, "the new address to be local", func() bool { return refused("10.77.0.99") })
	if out, err := s.host.Command(t.Context(), nil, "ip", "addr", "del", "10.77.0.99/32", "dev", netlab.HostIf).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	until(t, "the removed address not to be local", func() bool { return !refused("10.77.0.99") })
}

// A container reaches the host's address on its bridge as a local resolver, and one on an
// external link as any other nameserver: it may have a link of its own to another machine with
// that address.
func TestLocalKeptInContainer(t *testing.T) {
	s := openSeal(t, nil)
	b, err := s.lab.Bridge(t.Context(), s.host, "br7", 7)
	if err != nil {
		t.Skip(err)
	}
	box, err := s.lab.Container(b, "box")
	if err != nil {
		t.Fatal(err)
	}
	s.run(t)
	c := clienttest.Start(t, box, s.group)
	until(t, "the bridge to be local", func() bool {
		return c.Do("socket a tcp4")+c.Do("connect a 10.88.7.1:53")+c.Do("close a") == "okECONNREFUSEDok"
	})
	c.Want("socket b udp4 => ok\nconnect b " + netlab.HostAddr4 + ":53 => ok\nsend b => ok\n" +
		"recv b => " + s.about(netlab.HostAddr4+":53") + " from " + netlab.HostAddr4 + ":53")
}

// The network namespace of the client is part of a slot.
func TestSlotPerNamespace(t *testing.T) {
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE")
	s := openSeal(t, redirectLocal)
	b, err := s.lab.Bridge(t.Context(), s.host, "br7", 7)
	if err != nil {
		t.Skip(err)
	}
	box, err := s.lab.Container(b, "box")
	if err != nil {
		t.Fatal(err)
	}
	s.run(t)
	home, inside := s.client(t), clienttest.Start(t, box, s.group)
	for _, c := range []*clienttest.Client{home, inside} {
		c.Want("socket a udp4 => ok\nconnect a 127.0.0.11:53 => ok\nsend a => ok\n" +
			"recv a => " + s.about("127.0.0.11:53") + " from 127.0.0.11:53")
	}
	if used, _ := s.slotsUsed(t); used != 2 {
		t.Errorf("%d slots are in use: want one for each namespace", used)
	}
	want := uint32(0)
	if err := box.Do(func() error { cookie, err := spaces.Cookie(); want = uint32(cookie); return err }); err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for idx := range uint32(16) {
		if words, ok := s.origins.read(idx); ok && words[3] != 0 {
			o, _ := s.Origin(network.NthAddr(s.cfg.Prefix4, idx))
			got = append(got, o.Netns)
		}
	}
	if len(got) != 2 || got[0] != 0 || got[1] != want {
		t.Errorf("network namespaces of the slots: %v, want 0 and %d", got, want)
	}
}

// until waits until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(labtest.Patience(10 * time.Second)); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// Sockets that were connected to a local resolver before the seal are destroyed if local
// resolvers are redirected, and left alone if they are kept.
func TestLocalDestroysPlainSockets(t *testing.T) {
	for mode, want := range map[LocalMode]string{LocalKeep: "ok", LocalRedirect: "EDESTADDRREQ"} {
		s := &testSeal{}
		s.lab, s.host, s.lan = labtest.LAN(t)
		s.group = s.unsealed(t, "work")
		c := s.client(t)
		connect := "socket a udp4 => ok\nconnect a 127.0.0.53:53 => ok\nsocket b udp6 => ok\nconnect b [" + netlab.HostAddr6 + "]:53 => ok\n"
		c.Want(connect)
		cfg := sealTestConfig(t, s.group)
		cfg.LocalResolvers = mode
		s.Instance = openAt(t, s.host, cfg)
		listen(t, s.Instance)
		if err := s.Attach(); err != nil {
			t.Fatal(err)
		}
		for _, socket := range []string{"a", "b"} {
			if got := c.Do("send %s", socket); got != want {
				t.Errorf("mode %d: %s: %s, want %s", mode, socket, got, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A query to the host's address on the container's bridge is forwarded from the container's network
// namespace, so that the resolver there sees who asks. For an address that means another
// machine in that namespace, the host's namespace is used.
func TestLocalSource(t *testing.T) {
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE")
	s := openSeal(t, redirectLocal)
	b, err := s.lab.Bridge(t.Context(), s.host, "br7", 7)
	if err != nil {
		t.Skip(err)
	}
	box, err := s.lab.Container(b, "box")
	if err != nil {
		t.Fatal(err)
	}
	// The interface numbers of both ends are those of the container's link.
	elsewhere, other := labtest.Host(t, s.lab, "elsewhere"), labtest.Host(t, s.lab, "other")
	for n := interfaceIndex(t, other, "lo") + 1; n < interfaceIndex(t, s.host, "br7-2"); n++ {
		if err := s.lab.Wire(other, fmt.Sprintf("spare%d", n), labtest.Host(t, s.lab, fmt.Sprintf("spare%d", n)), "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.lab.Wire(elsewhere, "eth0", other, "eth0"), elsewhere.Addr("eth0", "10.88.7.9/24"), other.Addr("eth0", "10.88.7.1/24")); err != nil {
		t.Fatal(err)
	}
	// Only a namespace with a link to the host has an ID there, from the first list of links on.
	if err := s.lab.Wire(elsewhere, "eth1", s.host, "third"); err != nil {
		t.Fatal(err)
	}
	interfaceIndex(t, s.host, "third")
	for _, pair := range [][2]int{
		{interfaceIndex(t, other, "eth0"), interfaceIndex(t, s.host, "br7-2")},
		{interfaceIndex(t, elsewhere, "eth0"), interfaceIndex(t, box, "eth0")},
	} {
		if pair[0] != pair[1] {
			t.Fatalf("the interface has number %d, want %d", pair[0], pair[1])
		}
	}
	for _, tc := range []struct {
		at             *netlab.Host
		resolver, want string
	}{
		{box, "10.88.7.1", "10.88.7.2"},
		{box, "fd88:7::1", "fd88:7::2"},
		{box, netlab.HostAddr4, netlab.HostAddr4}, // behind a gateway
		{elsewhere, "10.88.7.1", "10.88.7.1"},
		{s.host, "10.88.7.1", "10.88.7.1"},
	} {
		var cookie uint64
		if err := tc.at.Do(func() (err error) { cookie, err = spaces.Cookie(); return err }); err != nil {
			t.Fatal(err)
		}
		if tc.at == s.host {
			cookie = 0
		}
		got := ""
		addr := netip.AddrPortFrom(netip.MustParseAddr(tc.resolver), 53)
		err := s.DoLocal(Origin{Addr: addr, Netns: uint32(cookie)}, func() error {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
			if err != nil {
				return err
			}
			got = c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().String()
			return c.Close()
		})
		if err != nil || got != tc.want {
			t.Errorf("from %s to %s: sent from %s, %v; want %s", tc.at.Name, tc.resolver, got, err, tc.want)
		}
	}
}

func interfaceIndex(t *testing.T, at *netlab.Host, name string) (index int) {
	t.Helper()
	err := at.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}
