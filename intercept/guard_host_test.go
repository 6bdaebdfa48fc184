// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"sotto/intercept/clienttest"
	"sotto/intercept/feature"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// unsealed creates a cgroup outside the sealed one.
func (s *testSeal) unsealed(t *testing.T, name string) *netlab.Cgroup {
	t.Helper()
	g, err := s.lab.Cgroup(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// echo returns datagrams to port 53 of a host, until the test ends.
func echo(t *testing.T, at *netlab.Host) {
	t.Helper()
	echoAt(t, at, ":53")
}

// echoAt returns datagrams to one address of a host, until the test ends.
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

// If the host is sealed, queries that it forwards are stopped, too: they have no local socket.
// Queries of an excluded container are let through, although their packets have lost their
// socket on the way, and a nameserver in a container is reachable from outside.
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
		clienttest.Start(t, machine, other).Want(strings.ReplaceAll(ask, "TCP", "EINPROGRESS"))
	}); n != 0 {
		t.Errorf("%d packets of a machine behind the host left", n)
	}
	if n := s.Counters()["stopped_forwarded"]; n < 3 {
		t.Errorf("stopped %d", n)
	}
	if n := s.crossed(t, func() {
		clienttest.Start(t, machine, open).Want(strings.ReplaceAll(ask, "TCP", "ECONNREFUSED")) // no server on the LAN
	}); n < 4 {
		t.Errorf("%d packets of an excluded container left", n)
	}
	// A sealed container is answered.
	clienttest.Start(t, machine, s.group).Want(strings.ReplaceAll(`
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
	clienttest.Start(t, s.lan, other).Want("socket a udp4 => ok\nsendto a 10.88.0.3:53 => ok\nrecv a => " + clienttest.Question + " from 10.88.0.3:53")
}

// The prefix is not reachable from outside: its addresses do not answer, and no packet with
// such a source address reaches a client.
func TestPrefixUnreachableFromOutside(t *testing.T) {
	s := openSeal(t, nil)
	if err := s.host.Sysctl("net/ipv4/ip_forward", "1", "?net/ipv6/conf/all/forwarding", "1"); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{s.cfg.Prefix4.String(), netlab.HostAddr4}, {s.cfg.Prefix6.String(), netlab.HostAddr6}} {
		if err := s.lan.Route(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	// Use the first two slots.
	c := s.client(t)
	c.Want(strings.ReplaceAll(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => [2001:db8::53]:53W from [2001:db8::53]:53`, "W", s.about("")))
	slot4, slot6 := network.NthAddr(s.cfg.Prefix4, network.FirstSlot), network.NthAddr(s.cfg.Prefix6, network.FirstSlot+1)
	at := func(a netip.Addr) string { return netip.AddrPortFrom(a, 53).String() }
	outside := clienttest.Start(t, s.lan, s.unsealed(t, "outside"))
	// dropped runs a script of the client outside, and checks that the guard dropped its packet
	// on arrival.
	dropped := func(script string) {
		t.Helper()
		before := s.Counters()["outside"]
		outside.Want(script)
		labtest.Eventually(t, func() error {
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

	// Replies from outside with a virtual source address. Only the guard drops them: without it
	// the sockets receive the same packets.
	reply4 := at(slot4) + ">" + net.JoinHostPort(netlab.HostAddr4, c.Do("port a"))
	reply6 := at(slot6) + ">" + net.JoinHostPort(netlab.HostAddr6, c.Do("port b"))
	dropped("forge " + reply4 + " => ok")
	dropped("forge " + reply6 + " => ok")
	c.Want("recv a => EAGAIN\nrecv b => EAGAIN")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	outside.Want("forge " + reply4 + " => ok\nforge " + reply6 + " => ok")
	c.Want("recv a => " + clienttest.Question + " from " + at(slot4) + "\nrecv b => " + clienttest.Question + " from " + at(slot6))
}

// An answer to a source address that a container forged does not leave the machine. A sealed
// socket cannot send a forged packet to a virtual address; one without a seal can.
func TestForgedSource(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "forger")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	slot := netip.AddrPortFrom(network.NthAddr(s.cfg.Prefix4, network.FirstSlot), 53)
	forger := s.unsealed(t, "forger")
	clienttest.Start(t, inside[0], forger).Want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => ok")
	clienttest.Start(t, inside[0], s.group).Want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => EPERM\nsocket a udp4 => ok\n" +
		"sendto a 8.8.8.8:53 => ok\nrecv a => " + s.about("8.8.8.8:53") + " from 8.8.8.8:53")
	if n := s.Counters()["stopped_made"]; n != 1 {
		t.Errorf("%d forged packets of a sealed socket were stopped", n)
	}
	if n := s.Counters()["escaped"]; n != 1 {
		t.Errorf("%d answers were dropped", n)
	}
	// A clean stop detaches the hooks first, and the listener continues for a while.
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	clienttest.Start(t, inside[0], forger).Want("forge " + netlab.LANAddr4 + ":53>" + slot.String() + " => ok")
	labtest.Eventually(t, func() error {
		if n := s.Counters()["escaped"]; n != 2 {
			return fmt.Errorf("%d answers were dropped", n)
		}
		return nil
	})
}

// addTap adds an interface whose other end is unknown to a host: packets may leave the machine
// by it.
func addTap(t *testing.T, at *netlab.Host, name string) {
	t.Helper()
	h, err := at.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE}
	err = at.Do(func() error { return netlink.LinkAdd(tap) })
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		labtest.Skip(t, "needs /dev/net/tun")
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A container on a veth with a network (systemd-nspawn --network-veth) is answered, also after
// the interfaces were examined again. If it gets a way out of the machine, its link is external.
func TestNumberedVeth(t *testing.T) {
	s := openSeal(t, nil)
	container := labtest.Host(t, s.lab, "nspawn")
	if err := s.lab.Wire(s.host, "ve-nspawn", container, "host0"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		s.host.Addr("ve-nspawn", "10.0.0.1/28", "fd00:7::1/64"), container.Addr("host0", "10.0.0.2/28", "fd00:7::2/64"),
		container.Route("0.0.0.0/0", "10.0.0.1"), container.Route("::/0", "fd00:7::1"),
		s.host.Sysctl("net/ipv4/ip_forward", "1", "?net/ipv6/conf/all/forwarding", "1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.guard.Reconcile()
	s.wire(t)
	c := clienttest.Start(t, container, s.group)
	c.Want(strings.ReplaceAll(`
		socket a udp4 => ok
		sendto a 8.8.8.8:53 => ok
		recv a => 8.8.8.8:53W from 8.8.8.8:53
		socket b udp6 => ok
		sendto b [2001:db8::53]:53 => ok
		recv b => [2001:db8::53]:53W from [2001:db8::53]:53
		socket c tcp4 => ok
		connect c 8.8.8.8:53 => ok
		send c => ok
		recv c => 8.8.8.8:53W
		socket d tcp6 => ok
		connect d [2001:db8::53]:53 => ok
		send d => ok
		recv d => [2001:db8::53]:53W`, "W", s.about("")))
	client := s.client(t)
	client.Want("frame ve-nspawn 10.0.0.2:53 => ok")
	addTap(t, container, "vpn0")
	s.guard.Reconcile()
	client.Want("frame ve-nspawn 10.0.0.2:53 => ENOBUFS")
}

// An interface that is added while the instance runs is guarded, too.
func TestGuardNewInterface(t *testing.T) {
	s := openSeal(t, nil)
	stop := s.run(t)
	beyond := labtest.Host(t, s.lab, "beyond")
	addTap(t, beyond, "card0")
	if err := s.lab.Wire(s.host, "late0", beyond, "eth0"); err != nil {
		t.Fatal(err)
	}
	if err := s.host.Addr("late0", "10.99.0.1/24"); err != nil {
		t.Fatal(err)
	}
	c := s.client(t)
	labtest.Eventually(t, func() error {
		if got := c.Do("frame late0 8.8.8.8:53"); got != "ENOBUFS" {
			return fmt.Errorf("a frame on the new interface: %s", got)
		}
		return nil
	})
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c.Want("frame late0 8.8.8.8:53 => ok\nframe eth0 8.8.8.8:53 => ok")
}

// If the NAT of the host translates queries of its containers, they do not leave in the clear,
// not even if virtual addresses are not exempt from NAT: on a kernel without nf_tables, or
// before a change of the ruleset is handled.
func TestTranslated(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	inside := labtest.Containers(t, s.lab, s.host, "container", "resolver")
	s.Instance = openAt(t, s.host, sealTestConfig(t, s.group))
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if err := s.nat.Remove(); err != nil {
		t.Fatal(err)
	}
	s.wire(t)
	c := clienttest.Start(t, inside[0], s.group)
	dnat := func(v4, v6 string) string {
		return fmt.Sprintf(`table ip force { chain pre { type nat hook prerouting priority -100; udp dport 53 dnat to %[1]s; tcp dport 53 dnat to %[1]s; }; }
			table ip6 force { chain pre { type nat hook prerouting priority -100; udp dport 53 dnat to %[2]s; tcp dport 53 dnat to %[2]s; }; }`, v4, v6)
	}
	for name, rules := range map[string]string{
		"nat, off this host": dnat(netlab.LANAddr4, netlab.LANAddr6),
		"nat, on this host":  dnat("10.88.0.3", "fd88::3"),
		"without state": `table ip force { chain pre { type filter hook prerouting priority -300; udp dport 53 ip daddr set 8.8.4.4 notrack; tcp dport 53 ip daddr set 8.8.4.4 notrack; }; }
			table ip6 force { chain pre { type filter hook prerouting priority -300; udp dport 53 ip6 daddr set 2001:db8::54; tcp dport 53 ip6 daddr set 2001:db8::54; }; }`,
		"at the port of the bridge": `table netdev force { chain pre { type filter hook ingress device "br0-2" priority 0; ip protocol udp udp dport 53 ip daddr set 8.8.4.4;
			ip protocol tcp tcp dport 53 ip daddr set 8.8.4.4; ip6 nexthdr udp udp dport 53 ip6 daddr set 2001:db8::54; }; }`,
	} {
		if out, err := s.host.Command(t.Context(), nil, labtest.NeedTool(t, "nft"), rules).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		n := s.Counters()["stopped_translated"]
		c.Want(`
			socket a udp4 => ok
			sendto a 8.8.8.8:53 => ok
			socket b udp6 => ok
			sendto b [2001:db8::53]:53 => ok
			socket c tcp4 => ok
			connect c 8.8.8.8:53 => EINPROGRESS`)
		if got := s.Counters()["stopped_translated"] - n; got < 3 {
			t.Errorf("%s: stopped %d", name, got)
		}
		for _, family := range []string{"ip", "ip6", "netdev"} { // a family may have none
			_ = s.host.Command(t.Context(), nil, "nft", "delete", "table", family, "force").Run()
		}
	}
}

// Multicast and broadcast queries do not leave the machine, whatever socket option is used, and
// whether the guard or the hooks refuse them.
func TestGroups(t *testing.T) {
	for mode, refused := range map[GuardMode][2]string{GuardDrop: {"ok", "EPERM"}, GuardCount: {"EHOSTUNREACH", "EHOSTUNREACH"}, GuardOff: {"EHOSTUNREACH", "EHOSTUNREACH"}} {
		s := openSeal(t, func(cfg *Config) { cfg.Guard = mode })
		if !feature.HasSetRetval() {
			refused[0] = strings.Replace(refused[0], "EHOSTUNREACH", "EPERM", 1)
			refused[1] = "EPERM"
		}
		s.wire(t)
		s.client(t).Want(strings.NewReplacer("CONNECT", refused[0], "DENIED", refused[1]).Replace(`
			socket a udp4 => ok
			broadcast a => ok
			groupby a eth0 => ok
			sendto a 239.1.2.3:53 => DENIED
			sendto a 224.0.0.251:53 => DENIED
			sendto a 255.255.255.255:53 => DENIED
			connect a 239.1.2.3:53 => CONNECT
			socket b udp6 => ok
			groupby b eth0 => ok
			sendto b [ff02::fb%eth0]:53 => DENIED
			sendto b [ff05::53]:53 => DENIED
			sendto b [::ffff:239.1.2.3]:53 => DENIED
			socket c udp4 => ok
			bind c eth0 => ok
			sendto c 239.1.2.3:53 => DENIED
			socket d udp4 => ok
			groupby d eth0 => ok
			sendto d 224.0.0.251:5353 => ok
			socket e udp4 => ok
			bind e lo => ok
			groupby e lo => ok
			sendto e 239.1.2.3:53 => ok`))
		n := s.Counters()
		if got := n["group"] + n["stopped_group"]; got < 7 {
			t.Errorf("mode %d: counted %d", mode, got)
		}
		if mode == GuardDrop {
			s.client(t).Want("socket f udp4 => ok\ngroupby f lo => ok\nsendto f 239.1.2.3:53 => ok")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
