// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
	"sotto/intercept/drops"
	"sotto/intercept/network"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// The guard's program on cgroups recognises queries in the clear, and lets other packets
// through.
func TestGuardReadsPackets(t *testing.T) {
	s := openSeal(t, nil)
	outside := outsideContext(t, s.host)
	const syn, ack, fin, rst, push = 0x02, 0x10, 0x01, 0x04, 0x08
	options := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}
	fragment := func(offset uint16) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_UDP, 0}, offset<<3|1), 7)
	}
	first := func(next byte) []byte { return []byte{next, 0, 0, 1, 0, 0, 0, 7} }
	chain := make([][]byte, 9)
	for i := range chain {
		chain[i] = []byte{60, 0, 1, 4, 0, 0, 0, 0}
	}
	for _, test := range []struct {
		name    string
		packet  []byte
		stopped string // the counter; "": it is let through
	}{
		{"UDP", clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53)), "stopped_socket"},
		{"UDP, another port", clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(54)), ""},
		{"UDP, from port 53", clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDPFrom(53, 40000)), ""},
		{"UDP-Lite", clienttest.Packet4(136, 0, clienttest.To4, clienttest.UDP(53)), "stopped_socket"},
		{"ICMP with the bytes of a query", clienttest.Packet4(1, 0, clienttest.To4, clienttest.UDP(53)), ""},
		{"UDP to loopback", clienttest.Packet4(17, 0, netip.MustParseAddr("127.0.0.53"), clienttest.UDP(53)), ""},
		{"UDP to a group", clienttest.Packet4(17, 0, netip.MustParseAddr("224.0.0.251"), clienttest.UDP(53)), "stopped_group"},
		{"UDP to a virtual address", clienttest.Packet4(17, 0, network.NthAddr(s.cfg.Prefix4, 9), clienttest.UDP(53)), "stopped_unheld"},
		{"UDP to a virtual address, a later fragment", clienttest.Packet4(17, 0x2010, network.NthAddr(s.cfg.Prefix4, 9), clienttest.UDP(53)), ""},
		{"UDP to an address next to the prefix", clienttest.Packet4(17, 0, netip.MustParseAddr("198.18.133.1"), clienttest.UDP(53)), "stopped_socket"},
		{"IPv6 UDP to an address next to the prefix", clienttest.Packet6(netip.MustParseAddr("fd73:6f74:746f:9::7"), 17, clienttest.UDP(53)), "stopped_socket"},
		{"UDP, the first fragment", clienttest.Packet4(17, 0x2000, clienttest.To4, clienttest.UDP(53)), "stopped_socket"},
		{"UDP, a later fragment", clienttest.Packet4(17, 0x2010, clienttest.To4, clienttest.UDP(53)), ""},
		{"UDP, the first fragment with half a header", clienttest.Packet4(17, 0x2000, clienttest.To4, clienttest.UDP(53)[:4]), "stopped_opaque"},
		{"TCP, the first fragment with 8 bytes", clienttest.Packet4(6, 0x2000, clienttest.To4, clienttest.TCP(53, syn, "")[:8]), "stopped_opaque"},
		{"TCP, the first fragment with the header", clienttest.Packet4(6, 0x2000, clienttest.To4, clienttest.TCP(53, ack, "")), "stopped_socket"},
		{"UDP, truncated", clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53)[:4]), ""},
		{"TCP, first segment", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, syn, "")), "stopped_socket"},
		{"TCP, fast open", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, syn, "a clienttest.Question")), "stopped_socket"},
		{"TCP, a clienttest.Question", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, ack|push, "a clienttest.Question")), "stopped_socket"},
		{"TCP, an acknowledgement", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, ack, "")), ""},
		{"TCP, FIN", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, ack|fin, "")), "stopped_silent"},
		{"TCP, a reset", clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, rst, "")), "stopped_silent"},
		{"IPv6 UDP", clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(53)), "stopped_socket"},
		{"IPv6 UDP, another port", clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(853)), ""},
		{"IPv6 TCP", clienttest.Packet6(clienttest.To6, 6, clienttest.TCP(53, syn, "")), "stopped_socket"},
		{"IPv6 behind options", clienttest.Packet6(clienttest.To6, 60, options, clienttest.UDP(53)), "stopped_socket"},
		{"IPv6 behind hop-by-hop options and routing", clienttest.Packet6(clienttest.To6, 0, []byte{43, 0, 1, 4, 0, 0, 0, 0}, []byte{17, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, clienttest.UDP(53)), "stopped_socket"},
		{"IPv6 behind an authentication header", clienttest.Packet6(clienttest.To6, 51, []byte{17, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, clienttest.UDP(53)), "stopped_socket"},
		{"IPv6, the first fragment", clienttest.Packet6(clienttest.To6, 44, fragment(0), clienttest.UDP(53)), "stopped_socket"},
		{"IPv6, the first fragment without the header", clienttest.Packet6(clienttest.To6, 44, fragment(0)), "stopped_opaque"},
		{"IPv6, the first fragment, which ends in options", clienttest.Packet6(clienttest.To6, 44, first(60), options), "stopped_opaque"},
		{"IPv6, an only fragment without the header", clienttest.Packet6(clienttest.To6, 44, []byte{unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 7}), ""},
		{"IPv6, a later fragment", clienttest.Packet6(clienttest.To6, 44, fragment(2), clienttest.UDP(53)), ""},
		{"IPv6, a later fragment, whose data look like headers", clienttest.Packet6(clienttest.To6, 44, []byte{60, 0, 0, 2<<3 | 1, 0, 0, 0, 7}, slices.Repeat([]byte{0}, 80)), ""},
		{"IPv6 behind too many headers", clienttest.Packet6(clienttest.To6, 60, append(chain, clienttest.UDP(53))...), "stopped_opaque"},
		{"IPv6 to loopback", clienttest.Packet6(netip.IPv6Loopback(), 17, clienttest.UDP(53)), ""},
		{"neither", []byte{0x00, 0x01, 0x08, 0x00, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, ""},
	} {
		before := s.Counters()
		// The kernel runs a program on a frame, and passes only the packet in it to this type of
		// program.
		var verdict uint32
		err := s.host.Do(func() (err error) {
			verdict, err = s.kernel.SottoGuardSocket.Run(&ebpf.RunOptions{Data: append(frameFor(test.packet), test.packet...), Context: outside})
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if (verdict == 0) != (test.stopped != "") {
			t.Errorf("%s: verdict %d", test.name, verdict)
		}
		after := s.Counters()
		for name, n := range after {
			if moved := n != before[name]; moved != (name == test.stopped) {
				t.Errorf("%s: counter %s went from %d to %d", test.name, name, before[name], n)
			}
		}
	}
}

// outsideContext returns the beginning of a struct __sk_buff for a packet that leaves by the
// host's interface to the LAN. Without it a test run has the loopback interface.
func outsideContext(t *testing.T, host *netlab.Host) (context [11]uint32) {
	t.Helper()
	err := host.Do(func() error {
		l, err := net.InterfaceByName(netlab.HostIf)
		if err == nil {
			context[10] = uint32(l.Index) // ifindex
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return context
}

// frameFor returns the Ethernet header for a packet.
func frameFor(packet []byte) []byte {
	kind := []byte{0x08, 0x00}
	if packet[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	return append(slices.Repeat([]byte{2}, 12), kind...)
}

// On an interface a packet to the prefix is redirected to the listener or dropped, also with
// VLAN tags, and a packet from the prefix does not leave the machine.
func TestGuardReadsFrames(t *testing.T) {
	s := openSeal(t, nil)
	const pass, drop, redirect = ^uint32(0), 2, 7 // linux/pkt_cls.h
	slot4, slot6 := network.NthAddr(s.cfg.Prefix4, 9), network.NthAddr(s.cfg.Prefix6, 9)
	frame := func(tags int, packet []byte) []byte {
		f := frameFor(packet)
		kind := slices.Clone(f[12:])
		f = f[:12]
		for range tags {
			f = append(f, 0x81, 0x00, 0x00, 0x07)
		}
		return slices.Concat(f, kind, packet)
	}
	arp := func(operation byte, who netip.Addr) []byte {
		b := append(slices.Repeat([]byte{0xff}, 12), 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation)
		b = append(append(b, slices.Repeat([]byte{2}, 6)...), clienttest.From4.AsSlice()...)
		return append(append(b, 0, 0, 0, 0, 0, 0), who.AsSlice()...)
	}
	fromSlot := clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDPFrom(53, 40000))
	copy(fromSlot[12:], slot4.AsSlice())
	out, in := s.kernel.SottoGuardOutFrame, s.kernel.SottoGuardInFrame
	for _, test := range []struct {
		name  string
		prog  *ebpf.Program
		frame []byte
		want  uint32
	}{
		{"out, for a slot", out, frame(0, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))), redirect},
		{"out, for a slot, another port", out, frame(0, clienttest.Packet4(6, 0, slot4, clienttest.TCP(80, 2, ""))), redirect},
		{"out, for a slot, IPv6", out, frame(0, clienttest.Packet6(slot6, 17, clienttest.UDP(53))), redirect},
		{"out, for a slot, tagged", out, frame(1, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))), drop},
		{"out, for a slot, tagged twice", out, frame(2, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))), drop},
		{"out, from a slot", out, frame(0, fromSlot), drop},
		{"out, another packet", out, frame(0, clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(80))), pass},
		{"out, who has a slot", out, arp(1, slot4), redirect},
		{"out, a slot is here", out, arp(2, slot4), drop},
		{"out, who has another", out, arp(1, clienttest.To4), pass},
		{"out, a frame of something else", out, append(slices.Repeat([]byte{2}, 12), 0x88, 0xcc, 1, 2, 3), pass},
		{"in, for a slot", in, frame(0, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))), drop},
		{"in, for a slot, IPv6", in, frame(0, clienttest.Packet6(slot6, 17, clienttest.UDP(53))), drop},
		{"in, for a slot, tagged", in, frame(2, clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))), drop},
		{"in, from a slot", in, frame(0, fromSlot), drop},
		{"in, another packet", in, frame(0, clienttest.Packet4(17, 0, clienttest.From4, clienttest.UDP(53))), pass},
	} {
		got, err := test.prog.Run(&ebpf.RunOptions{Data: test.frame})
		if err != nil || got != test.want {
			t.Errorf("%s: verdict %d, want %d; %v", test.name, int32(got), int32(test.want), err)
		}
	}
}

// dropEvents returns the events that the programs have reported.
func (s *testSeal) dropEvents(t *testing.T) (got []string) {
	t.Helper()
	reader := drops.Reader{
		Events: s.kernel.Drops,
		Lost:   func() (uint64, error) { return s.kernel.counter(sottoCounterCOUNT_EVENT_LOST) },
		Handle: func(e drops.Event, lost uint64) {
			d := dropOf(&e, lost)
			got = append(got, fmt.Sprintf("%s %v %v %d %t", d.Reason, d.Src, d.Dst, len(d.Message), d.Passed))
			if since := time.Since(d.Time); since < 0 || since > time.Minute {
				t.Errorf("%s: %s ago", d.Reason, since)
			}
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := reader.Run(ctx); err != nil {
		t.Error(err)
	}
	return got
}

// During a trace the programs report each packet that they drop, with its start from the IP header,
// and without a trace none.
func TestDropEvents(t *testing.T) {
	s := openSeal(t, nil)
	var got []string
	slot4 := network.NthAddr(s.cfg.Prefix4, 9)
	socket, out, in := s.kernel.SottoGuardSocket, s.kernel.SottoGuardOutFrame, s.kernel.SottoGuardInFrame
	long := append(clienttest.UDP(53), make([]byte, 1000)...) // its length field is not read
	tagged := append(slices.Repeat([]byte{2}, 12), 0x81, 0, 0, 7, 0x81, 0, 0, 7, 8, 0)
	for _, test := range []struct {
		prog  *ebpf.Program
		frame []byte
		want  string // "": no event
	}{
		{socket, append(frameFor([]byte{0x45}), clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(53))...), "stopped_socket 10.77.0.2:40000 8.8.8.8:53 10 false"},
		{socket, append(frameFor([]byte{0x60}), clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(53))...), "stopped_socket [fd77::2]:40000 [2001:db8::53]:53 10 false"},
		{socket, append(frameFor([]byte{0x45}), clienttest.Packet4(17, 0, clienttest.To4, long)...), "stopped_socket 10.77.0.2:40000 8.8.8.8:53 484 false"},
		{socket, append(frameFor([]byte{0x45}), clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, 0x11, ""))...), ""}, // stopped_silent
		{socket, append(frameFor([]byte{0x45}), clienttest.Packet4(17, 0, clienttest.To4, clienttest.UDP(54))...), ""},
		{out, append(slices.Clone(tagged), clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))...), "stopped_made 10.77.0.2:40000 " + slot4.String() + ":53 10 false"},
		// The program for links without frames, on one with a header of its own.
		{s.kernel.SottoGuardOutIp, append(frameFor([]byte{0x45}), clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))...), "escaped 10.77.0.2:40000 " + slot4.String() + ":53 10 false"},
		{in, append(frameFor([]byte{0x45}), clienttest.Packet4(17, 0, slot4, clienttest.UDP(53))...), "outside 10.77.0.2:40000 " + slot4.String() + ":53 10 false"},
	} {
		for _, traced := range []bool{false, true} {
			stop := func() {}
			if traced {
				var err error
				if stop, err = s.StartTrace(); err != nil {
					t.Fatal(err)
				}
			}
			err := s.host.Do(func() error {
				_, err := test.prog.Run(&ebpf.RunOptions{Data: test.frame, Context: outsideContext(t, s.host)})
				return err
			})
			stop()
			if err != nil {
				t.Fatal(err)
			}
			got = s.dropEvents(t)
			want := []string{test.want}
			if !traced || test.want == "" {
				want = nil
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, traced %t: %q, want %q", test.want, traced, got, want)
			}
		}
	}
}

// The payload of a segment is in fragments. An event has the addresses and the message nevertheless.
func TestDropEventOfSegment(t *testing.T) {
	s := &testSeal{}
	s.lab, s.host, s.lan = labtest.LAN(t)
	s.group = s.unsealed(t, "work")
	server := clienttest.Start(t, s.lan, s.unsealed(t, "outside"))
	server.Want("socket l tcp4 => ok\nlocal l 10.77.0.1:53 => ok\nlisten l => ok")
	client := clienttest.Start(t, s.host, s.group)
	client.Want("socket c tcp4 => ok\nconnect c 10.77.0.1:53 => ok\npeer c => 10.77.0.1:53")
	cfg := sealTestConfig(t, s.group)
	cfg.Guard = GuardCount // which leaves the connection open
	s.Instance = openAt(t, s.host, cfg)
	listen(t, s.Instance)
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	stop, err := s.StartTrace()
	if err != nil {
		t.Fatal(err)
	}
	client.Want("send c => ok")
	server.Want("accept a l => ok\nrecv a => " + clienttest.Question)
	stop()
	want := regexp.MustCompile(fmt.Sprintf(`^stopped_socket 10\.77\.0\.2:\d+ 10\.77\.0\.1:53 %d true$`, len(clienttest.Question)-2)) // behind its length
	if got := s.dropEvents(t); len(got) == 0 || !want.MatchString(got[0]) {
		t.Errorf("%q, want %s", got, want)
	}
}

// BenchmarkGuard measures the cost per packet on a sealed machine, in the kernel: once on the
// cgroup and once on the interface.
func BenchmarkGuard(b *testing.B) {
	s := openSeal(b, nil)
	bulk := clienttest.Packet4(6, 0, clienttest.To4, append(clienttest.TCP(443, 0x10, ""), make([]byte, 1400)...))
	for _, bench := range []struct {
		name string
		prog *ebpf.Program
	}{{"socket", s.kernel.SottoGuardSocket}, {"out", s.kernel.SottoGuardOutFrame}, {"in", s.kernel.SottoGuardInFrame}} {
		b.Run(bench.name, func(b *testing.B) {
			_, took, err := bench.prog.Benchmark(append(frameFor(bulk), bulk...), max(b.N, 1), nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}
