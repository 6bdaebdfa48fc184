// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
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
		return "ok", unix.Sendto(fd, udpHeader(40000, ap.Port()), 0, to)
	case "frame", "vlan": // a packet socket
		from := netip.MustParseAddrPort("10.77.0.2:40000")
		to := netip.MustParseAddrPort(arg)
		if to.Addr().Is6() {
			from = netip.MustParseAddrPort("[fd77::2]:40000")
		}
		return "ok", sendFrame(f[1], from, to, f[0] == "vlan")
	case "groupby": // the interface that a socket's multicast leaves by
		l, err := net.InterfaceByName(arg)
		if err != nil {
			return "", err
		}
		return "ok", errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(l.Index)}),
			ignore(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, l.Index), unix.ENOPROTOOPT))
	case "broadcast":
		return "ok", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	case "pieces": // the first fragment of a query, which ends inside the transport header, and the second
		return "ok", sendPieces(netip.MustParseAddrPort(f[1]))
	case "forge": // FROM>TO
		from, to, _ := strings.Cut(f[1], ">")
		return "ok", forge(netip.MustParseAddrPort(from), netip.MustParseAddrPort(to))
	case "port":
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return "", err
		}
		_, port, err := net.SplitHostPort(showAddr(sa))
		return port, err
	}
	return s.oddSends(f)
}

// ignore returns err unless it is that one.
func ignore(err, that error) error {
	if errors.Is(err, that) {
		return nil
	}
	return err
}

// sendPieces sends a query in two fragments, of which the first has the first 8 bytes of a
// TCP header, or over IPv6 nothing of a UDP header but what options leave.
func sendPieces(to netip.AddrPort) error {
	if to.Addr().Is4() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		segment := tcp(to.Port(), 0x18, question)
		for _, piece := range []struct {
			field uint16
			data  []byte
		}{{0x2000, segment[:8]}, {0x0001, segment[8:]}} {
			packet := packet4(unix.IPPROTO_TCP, piece.field, to.Addr(), piece.data)
			if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
				return err
			}
		}
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	options := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}
	for _, piece := range [][]byte{
		packet6(to.Addr(), 44, []byte{60, 0, 0, 1, 0, 0, 0, 7}, options),
		packet6(to.Addr(), 44, []byte{60, 0, 0, 8, 0, 0, 0, 7}, udp(to.Port())),
	} {
		if err := unix.Sendto(fd, piece, 0, &unix.SockaddrInet6{Addr: to.Addr().As16()}); err != nil {
			return err
		}
	}
	return nil
}

// question is what clients ask.
const question = "who is it?"

// udpHeader is a datagram with the question, without a checksum.
func udpHeader(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(question)))
	return append(append(b, 0, 0), question...)
}

// sendFrame puts an IP packet onto an interface's wire.
func sendFrame(ifname string, from, to netip.AddrPort, tagged bool) error {
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
	udp := udpHeader(from.Port(), to.Port())
	if to.Addr().Is4() {
		frame = append(append(frame, 0x08, 0x00), ip4Header(from.Addr(), to.Addr(), len(udp))...)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
		frame = append(append(frame, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	}
	frame = append(frame, udp...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
}

func ip4Header(from, to netip.Addr, size int) []byte {
	ip := []byte{0x45, 0, 0, byte(20 + size), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return ip
}

// forge sends a datagram whose source is another's.
func forge(from, to netip.AddrPort) error {
	udp := udpHeader(from.Port(), to.Port())
	family, packet := unix.AF_INET6, ip6Datagram(from.Addr(), to.Addr(), udp)
	var dst unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		family, packet = unix.AF_INET, append(ip4Header(from.Addr(), to.Addr(), len(udp)), udp...)
		dst = &unix.SockaddrInet4{Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, packet, 0, dst)
}

// ip6Datagram puts an IPv6 header before a datagram, and the checksum that IPv6 demands
// into it (RFC 8200 §8.1).
func ip6Datagram(from, to netip.Addr, udp []byte) []byte {
	udp = bytes.Clone(udp)
	addrs := append(from.AsSlice(), to.AsSlice()...)
	size := byte(len(udp)) // even: the question is
	sum := checksum(slices.Concat(addrs, []byte{0, 0, 0, size, 0, 0, 0, unix.IPPROTO_UDP}, udp))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, size, unix.IPPROTO_UDP, 64}, addrs, udp)
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// acceptTCP takes connections and keeps them until the end of the test.
func acceptTCP(t *testing.T, at *netlab.Host, addr string) {
	t.Helper()
	var l net.Listener
	if err := at.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	taken := make(chan []net.Conn, 1)
	t.Cleanup(func() {
		_ = l.Close()
		for _, c := range <-taken {
			_ = c.Close()
		}
	})
	go func() {
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				taken <- all
				return
			}
			all = append(all, c)
		}
	}()
}
