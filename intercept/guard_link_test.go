// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"sotto/intercept/clienttest"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// bridgeTap adds a bridge with the host's interface to the LAN and a tap device, as for a
// virtual machine on the host's LAN. It returns the descriptor from which the machine sends.
func bridgeTap(t *testing.T, host *netlab.Host) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vm"
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1, Flags: netlink.TUNTAP_NO_PI}
	err := host.Do(func() error { return netlink.LinkAdd(tap) })
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		labtest.Skip(t, "needs /dev/net/tun")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Fds[0].Close() })
	// Where the bridge passes frames to iptables, they lose their socket.
	if err := host.Sysctl("?net/bridge/bridge-nf-call-iptables", "0", "?net/bridge/bridge-nf-call-ip6tables", "0"); err != nil {
		t.Fatal(err)
	}
	h, err := host.NS.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	attrs = netlink.NewLinkAttrs()
	attrs.Name = "lan"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(h.LinkAdd(bridge), h.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vm", netlab.HostIf} {
		link, err := h.LinkByName(name)
		if err == nil {
			err = errors.Join(h.LinkSetMaster(link, bridge), h.LinkSetUp(link))
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return tap.Fds[0]
}

// The frames of a virtual machine on a bridge belong to the socket of its tap device, which no
// program on a cgroup has seen. They are those of another machine, which the host forwards.
func TestGuardVirtualMachine(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.GuardHost = true })
	machine := bridgeTap(t, s.host)
	s.guard.Reconcile()
	send := func(packet []byte) {
		t.Helper()
		frame := append(frameFor(packet), packet...)
		frame[5] = 1 // of another machine; the bridge copies frames to all, and the copies have no socket
		if _, err := machine.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	slot4 := network.NthAddr(s.cfg.Prefix4, 9)
	if n := s.crossed(t, func() {
		send(clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53)))
		send(clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(53)))
		send(clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, 2, "")))
		send(clienttest.Packet4(17, 0, slot4, clienttest.UDP(53)))
	}); n != 0 {
		t.Errorf("%d packets of a virtual machine left", n)
	}
	c := s.Counters()
	if c["stopped_forwarded"] != 3 || c["stopped_packet"] != 0 || c["redirected_in"] != 0 {
		t.Errorf("counted %v", c)
	}
}

// A link without Ethernet frames may have a header of its own before that of IP. A packet for a
// slot does not leave by it, and no packet from or to one arrives.
func TestGuardReadsBehindLinkHeader(t *testing.T) {
	s := openSeal(t, nil)
	const pass, drop = ^uint32(0), 2 // linux/pkt_cls.h
	slot4, slot6 := network.NthAddr(s.cfg.Prefix4, 9), network.NthAddr(s.cfg.Prefix6, 9)
	fromSlot := clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDPFrom(53, 40000))
	copy(fromSlot[12:], slot4.AsSlice())
	out, in := s.kernel.SottoGuardOutIp, s.kernel.SottoGuardInIp
	for _, test := range []struct {
		name    string
		prog    *ebpf.Program
		packet  []byte
		want    uint32
		counter string
	}{
		{"out, for a slot", out, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53)), drop, "escaped"},
		{"out, for a slot, IPv6", out, clienttest.Packet6(slot6, 17, clienttest.UDP(53)), drop, "escaped"},
		{"out, from a slot", out, fromSlot, drop, "escaped"},
		{"out, another packet", out, clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(80)), pass, ""},
		{"in, for a slot", in, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53)), drop, "outside"},
		{"in, from a slot", in, fromSlot, drop, "outside"},
		{"in, another packet", in, clienttest.Packet4(17, 0, clienttest.From4, clienttest.UDP(53)), pass, ""},
	} {
		before := s.Counters()
		// The kernel runs the program on the whole frame, and knows where its IP header is.
		var got uint32
		err := s.host.Do(func() (err error) {
			got, err = test.prog.Run(&ebpf.RunOptions{Data: append(frameFor(test.packet), test.packet...), Context: outsideContext(t, s.host)})
			return err
		})
		if err != nil || got != test.want {
			t.Errorf("%s: verdict %d, want %d; %v", test.name, int32(got), int32(test.want), err)
		}
		if c := s.Counters(); test.counter != "" && c[test.counter] != before[test.counter]+1 {
			t.Errorf("%s: %s went from %d to %d", test.name, test.counter, before[test.counter], c[test.counter])
		}
	}
}
