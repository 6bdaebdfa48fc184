// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// unsealed makes a cgroup beside the sealed one.
func (s *testSeal) unsealed(t *testing.T, name string) *netlab.Cgroup {
	t.Helper()
	g, err := s.lab.Cgroup(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// echo answers whoever asks at port 53 of a host, until the test ends.
func echo(t *testing.T, at *netlab.Host) {
	t.Helper()
	echoAt(t, at, ":53")
}

// echoAt answers whoever asks at one address of a host, until the test ends.
func echoAt(t *testing.T, at *netlab.Host, addr string) {
	t.Helper()
	var c net.PacketConn
	if err := at.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

// Where the host is sealed, what it forwards for others is stopped as well: it has no
// socket here. What an excluded container asks is let through, though it has lost its
// socket on the way too; and a nameserver in a container is asked from outside as before.
func TestGuardHost(t *testing.T) {
	var open *netlab.Cgroup
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group, open = s.unsealed(t, "work"), s.unsealed(t, "open")
	inside := labtest.Containers(t, s.lab, s.host, "machine", "server")
	cfg := sealTestConfig(t, s.group)
	cfg.Cgroups = append(cfg.Cgroups, open.Path)
	cfg.Exclude, cfg.GuardHost = []string{open.Path}, true
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	const ask = `
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => TCP`
	machine, other := inside[0], s.unsealed(t, "other")
	if n := s.crossed(t, func() {
		startClient(t, machine, other).want(strings.ReplaceAll(ask, "TCP", "EINPROGRESS"))
	}); n != 0 {
		t.Errorf("%d packets of a machine behind the host left", n)
	}
	if n := s.Counters()["stopped_forwarded"]; n < 3 {
		t.Errorf("stopped %d", n)
	}
	if n := s.crossed(t, func() {
		startClient(t, machine, open).want(strings.ReplaceAll(ask, "TCP", "ECONNREFUSED")) // nobody serves the LAN
	}); n < 4 {
		t.Errorf("%d packets of an excluded container left", n)
	}
	// A sealed one is answered, of course.
	startClient(t, machine, s.group).want(strings.ReplaceAll(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		socket b udp6 => ok
		bind b eth0 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => [2001:db8::53]:53W from [2001:db8::53]:53`, "W", s.about("")))

	echo(t, inside[1])
	if err := s.lan.Route("10.88.0.0/24", netlab.HostAddr4); err != nil {
		t.Fatal(err)
	}
	startClient(t, s.lan, other).want("socket a udp4 => ok\nsendto a 10.88.0.3:53 => ok\nrecv a => " + question + " from 10.88.0.3:53")
}

// From outside the prefix is dead: its addresses give no answer, and nothing that says
// it comes from one reaches a client.
func TestPrefixDeadFromOutside(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.host.Sysctl("net/ipv4/ip_forward", "1", "?net/ipv6/conf/all/forwarding", "1"); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{s.cfg.Prefix4.String(), netlab.HostAddr4}, {s.cfg.Prefix6.String(), netlab.HostAddr6}} {
		if err := s.lan.Route(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	// Slots that are in use: the first two.
	c := s.client(t)
	c.want(strings.ReplaceAll(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => [2001:db8::53]:53W from [2001:db8::53]:53`, "W", s.about("")))
	slot4, slot6 := nthAddr(s.cfg.Prefix4, firstSlotIndex), nthAddr(s.cfg.Prefix6, firstSlotIndex+1)
	at := func(a netip.Addr) string { return netip.AddrPortFrom(a, 53).String() }
	outside := startClient(t, s.lan, s.unsealed(t, "outside"))
	// dropped has the outside send something, and checks that the guard dropped it as it
	// came in.
	dropped := func(script string) {
		t.Helper()
		before := s.Counters()["outside"]
		outside.want(script)
		eventually(t, func() error {
			if s.Counters()["outside"] == before {
				return fmt.Errorf("%s: nothing was dropped", script)
			}
			return nil
		})
	}
	dropped("socket a udp4 => ok\nsendto a " + at(slot4) + " => ok\nrecv a => EAGAIN")
	dropped("socket b udp6 => ok\nsendto b " + at(slot6) + " => ok\nrecv b => EAGAIN")
	dropped("socket c tcp4 => ok\nconnect c " + at(slot4) + " => EINPROGRESS\nclose c => ok")
	dropped("socket d tcp6 => ok\nconnect d " + at(slot6) + " => EINPROGRESS\nclose d => ok")

	// Replies from outside, as if from a virtual address. Only the guard keeps them from
	// their sockets: without it the same packets are received.
	reply4 := at(slot4) + ">" + net.JoinHostPort(netlab.HostAddr4, c.do("port a"))
	reply6 := at(slot6) + ">" + net.JoinHostPort(netlab.HostAddr6, c.do("port b"))
	dropped("forge " + reply4 + " => ok")
	dropped("forge " + reply6 + " => ok")
	c.want("recv a => EAGAIN\nrecv b => EAGAIN")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	outside.want("forge " + reply4 + " => ok\nforge " + reply6 + " => ok")
	c.want("recv a => " + question + " from " + at(slot4) + "\nrecv b => " + question + " from " + at(slot6))
}

// An answer to a source that a container made up does not leave the machine. A sealed socket
// cannot make one up; one that no seal covers can.
func TestMadeUpSource(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "liar")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	slot := netip.AddrPortFrom(nthAddr(s.cfg.Prefix4, firstSlotIndex), 53)
	liar := s.unsealed(t, "liar")
	startClient(t, inside[0], liar).want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => ok")
	startClient(t, inside[0], s.group).want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => EPERM\nsocket a udp4 => ok\n" +
		"sendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if n := s.Counters()["stopped_made"]; n != 1 {
		t.Errorf("%d packets that a sealed socket made up were stopped", n)
	}
	if n := s.Counters()["escaped"]; n != 1 {
		t.Errorf("%d answers were kept from leaving", n)
	}
	// A clean stop begins with the hooks, and the listener goes on for a while.
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	startClient(t, inside[0], liar).want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => ok")
	eventually(t, func() error {
		if n := s.Counters()["escaped"]; n != 2 {
			return fmt.Errorf("%d answers were kept from leaving", n)
		}
		return nil
	})
}

// An interface that comes while the instance runs is guarded too.
func TestGuardFollowsInterfaces(t *testing.T) {
	s := openSeal(t, nil)
	stop := s.run(t)
	beyond := labtest.Host(t, s.lab, "beyond")
	if err := s.lab.Wire(s.host, "late0", beyond, "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := s.host.Addr("late0", "10.99.0.1/24"); err != nil {
		t.Fatal(err)
	}
	c := s.client(t)
	eventually(t, func() error {
		if got := c.do("frame late0 8.8.8.8:53"); got != "ENOBUFS" {
			return fmt.Errorf("a frame on the new interface: %s", got)
		}
		return nil
	})
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c.want("frame late0 8.8.8.8:53 => ok\nframe eth0 8.8.8.8:53 => ok")
}

func TestInsideLinks(t *testing.T) {
	const bridge, veth, tap, nic = "bridge", "veth", "tuntap", "device"
	for name, test := range map[string]struct {
		links []hostLink
		want  string
	}{
		"a network card":          {[]hostLink{{name: "eth0", kind: nic, framed: true}}, ""},
		"a veth with a network":   {[]hostLink{{name: "eth0", kind: veth, framed: true, subnet: true}}, ""},
		"a veth that leads away":  {[]hostLink{{name: "eth0", kind: veth, framed: true, gateway: true}}, ""},
		"a container's own veth":  {[]hostLink{{name: "cali0", kind: veth, framed: true}}, "cali0"},
		"a VPN's tunnel":          {[]hostLink{{name: "tun0", kind: tap, subnet: true}}, ""},
		"an unnumbered tunnel":    {[]hostLink{{name: "tun0", kind: tap}}, ""},
		"an empty bridge":         {[]hostLink{{name: "docker0", kind: bridge, framed: true, subnet: true}}, "docker0"},
		"a bridge of containers":  {[]hostLink{{name: "docker0", kind: bridge, framed: true, subnet: true, index: 1}, {name: "v0", kind: veth, framed: true, index: 2, master: 1}, {name: "t0", kind: tap, framed: true, index: 3, master: 1}}, "docker0 v0 t0"},
		"a bridge with a card":    {[]hostLink{{name: "v0", kind: veth, framed: true, index: 2, master: 1}, {name: "br0", kind: bridge, framed: true, index: 1}, {name: "eth0", kind: nic, framed: true, index: 3, master: 1}}, ""},
		"a bridge with the route": {[]hostLink{{name: "br0", kind: bridge, framed: true, index: 1, gateway: true}, {name: "v0", kind: veth, framed: true, index: 2, master: 1}}, ""},
		"a bond's port":           {[]hostLink{{name: "bond0", kind: "bond", framed: true, index: 1}, {name: "v0", kind: veth, framed: true, index: 2, master: 1}}, "v0"},
	} {
		for i := range test.links {
			if test.links[i].index == 0 {
				test.links[i].index = 10 + i
			}
		}
		inside := insideLinks(test.links)
		var got []string
		for _, l := range test.links {
			if inside[l.index] {
				got = append(got, l.name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v lead inside, want %q", name, got, test.want)
		}
	}
}
