// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// pastHooks is what a client does to get past the hooks: VERB SOCKET ARGUMENT, or
// VERB INTERFACE ARGUMENT.
func (s sockets) pastHooks(f []string) (string, error) {
	fd, arg := s[f[1]], f[2]
	switch f[0] {
	case "pin": // IP_UNICAST_IF, which no hook can see
		l, err := net.InterfaceByName(arg)
		if err != nil {
			return "", err
		}
		// In network order, whatever the machine's (ip(7)).
		index := int(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(l.Index))))
		if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family == unix.AF_INET6 {
			return "ok", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, index)
		}
		return "ok", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_UNICAST_IF, index)
	case "rawto": // a raw socket of UDP
		ap := netip.MustParseAddrPort(arg)
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: ap.Addr().As16()}
		if ap.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: ap.Addr().As4()}
		}
		return "ok", unix.Sendto(fd, udpHeader(ap.Port()), 0, to)
	case "frame", "vlan": // a packet socket
		return "ok", sendFrame(f[1], netip.MustParseAddrPort(arg), f[0] == "vlan")
	}
	return "", fmt.Errorf("no such verb %q", f[0])
}

// udpHeader is a datagram "ask", without a checksum.
func udpHeader(port uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40000)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(binary.BigEndian.AppendUint16(b, 11), 0, 0, 'a', 's', 'k')
}

// sendFrame puts an IP packet onto an interface's wire.
func sendFrame(ifname string, to netip.AddrPort, tagged bool) error {
	l, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, l.HardwareAddr...)
	if tagged {
		frame = append(frame, 0x81, 0x00, 0x00, 0x07)
	}
	udp := udpHeader(to.Port())
	if to.Addr().Is4() {
		frame = append(frame, 0x08, 0x00, 0x45, 0, 0, byte(20+len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 77, 0, 2)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
		from := netip.MustParseAddr("fd77::2").As16()
		frame = append(frame, from[:]...)
	}
	frame = append(append(frame, to.Addr().AsSlice()...), udp...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
}
