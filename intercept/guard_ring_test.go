// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sotto/intercept/clienttest"
	"sotto/intercept/network"
)

// sendRing sends a packet by an interface from a ring of frames that the kernel maps: the packet is in
// fragments then, also its headers.
func sendRing(name string, packet []byte) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size, frames = 4096, 2
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2),
		unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING,
			&unix.TpacketReq{Block_size: size, Block_nr: 1, Frame_size: size / frames, Frame_nr: frames}))
	if err != nil {
		return err
	}
	ring, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(ring) }()
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&ring[0]))
	const alignment = 16                                                // TPACKET_ALIGNMENT
	copy(ring[(unsafe.Sizeof(*h)+alignment-1)&^(alignment-1):], packet) // TPACKET2_HDRLEN without the address
	h.Len = uint32(len(packet))
	h.Status = unix.TP_STATUS_SEND_REQUEST
	protocol := binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		protocol = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	}
	return unix.Sendto(fd, nil, 0, &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(protocol), Ifindex: link.Attrs().Index, Halen: 6,
	})
}

// A program that bypasses the IP stack may send packets whose headers are in fragments. On an
// interface without Ethernet frames the guard sees them as well.
func TestGuardPacketRing(t *testing.T) {
	s := openSeal(t, func(cfg *Config) { cfg.GuardHost = true })
	if err := s.host.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil { // the interface sends nothing itself
		t.Fatal(err)
	}
	tun := addTunnel(t, s.host, "ring")
	if err := unix.SetNonblock(int(tun.Fd()), true); err != nil {
		t.Fatal(err)
	}
	s.guard.Reconcile()
	slot4, slot6 := network.NthAddr(s.cfg.Prefix4, 9), network.NthAddr(s.cfg.Prefix6, 9)
	send := func(packet []byte) {
		t.Helper()
		// ENOBUFS: the packet was dropped.
		if err := s.host.Do(func() error { return sendRing("ring", packet) }); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	to4 := func(addr netip.Addr, port uint16) []byte {
		return clienttest.Packet4(17, 0, addr, clienttest.UDP(port))
	}
	before := s.Counters()
	send(to4(clienttest.To4, 53))
	send(clienttest.Packet6(clienttest.To6, 17, clienttest.UDP(53)))
	send(clienttest.Packet4(6, 0, clienttest.To4, clienttest.TCP(53, 2, "")))
	send(to4(slot4, 53))
	send(clienttest.Packet6(slot6, 17, clienttest.UDP(53)))
	send(to4(clienttest.To4, 80)) // the only one that leaves
	packet := make([]byte, 2000)
	var n int
	eventually(t, "the packet for port 80", func() (ok bool) {
		var err error
		n, err = unix.Read(int(tun.Fd()), packet)
		return err == nil
	})
	if port := binary.BigEndian.Uint16(packet[22:]); n < 28 || packet[0]>>4 != 4 || port != 80 {
		t.Errorf("a packet left: %x", packet[:n])
	}
	time.Sleep(10 * time.Millisecond)
	if n, err := unix.Read(int(tun.Fd()), packet); err == nil {
		t.Errorf("another packet left: %x", packet[:n])
	}
	c := s.Counters()
	if stopped := c["stopped_packet"] - before["stopped_packet"]; stopped != 3 {
		t.Errorf("%d packets to nameservers were stopped, want 3: %v", stopped, c)
	}
}
