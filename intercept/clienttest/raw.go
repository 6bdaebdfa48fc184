// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// raw runs commands that bypass the hooks: VERB SOCKET ARGUMENT, or VERB INTERFACE ARGUMENT.
func (s Sockets) raw(f []string) (string, error) {
	fd, arg := s[f[1]], f[2]
	switch f[0] {
	case "pin": // IP_UNICAST_IF, which hooks cannot read
		l, err := net.InterfaceByName(arg)
		if err != nil {
			return "", err
		}
		// Always in network byte order (ip(7)).
		index := int(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(l.Index))))
		if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family == unix.AF_INET6 {
			return "ok", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, index)
		}
		return "ok", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_UNICAST_IF, index)
	case "rawto": // a UDP query by a raw socket
		ap := netip.MustParseAddrPort(arg)
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: ap.Addr().As16()}
		if ap.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: ap.Addr().As4()}
		}
		return "ok", unix.Sendto(fd, UDPFrom(40000, ap.Port()), 0, to)
	case "frame", "vlan": // a query by a packet socket
		from := netip.MustParseAddrPort("10.77.0.2:40000")
		to := netip.MustParseAddrPort(arg)
		if to.Addr().Is6() {
			from = netip.MustParseAddrPort("[fd77::2]:40000")
		}
		return "ok", sendFrame(f[1], from, to, f[0] == "vlan")
	case "groupby": // the interface for multicast
		l, err := net.InterfaceByName(arg)
		if err != nil {
			return "", err
		}
		return "ok", errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(l.Index)}),
			ignore(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, l.Index), unix.ENOPROTOOPT))
	case "broadcast":
		return "ok", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	case "pieces": // a query in two fragments, the first of which ends inside the transport header
		return "ok", sendPieces(netip.MustParseAddrPort(f[1]))
	case "forge": // FROM>TO
		from, to, _ := strings.Cut(f[1], ">")
		return "ok", forge(netip.MustParseAddrPort(from), netip.MustParseAddrPort(to))
	case "port":
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return "", err
		}
		_, port, err := net.SplitHostPort(AddrString(sa))
		return port, err
	}
	return s.unusual(f)
}

// ignore returns err unless it is that error.
func ignore(err, that error) error {
	if errors.Is(err, that) {
		return nil
	}
	return err
}

// sendPieces sends a query in two fragments. The first contains the first 8 bytes of a TCP
// header, or over IPv6 only options and no part of the UDP header.
func sendPieces(to netip.AddrPort) error {
	if to.Addr().Is4() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		segment := TCP(to.Port(), 0x18, Question)
		for _, piece := range []struct {
			field uint16
			data  []byte
		}{{0x2000, segment[:8]}, {0x0001, segment[8:]}} {
			packet := Packet4(unix.IPPROTO_TCP, piece.field, to.Addr(), piece.data)
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
		Packet6(to.Addr(), 44, []byte{60, 0, 0, 1, 0, 0, 0, 7}, options),
		Packet6(to.Addr(), 44, []byte{60, 0, 0, 8, 0, 0, 0, 7}, UDP(to.Port())),
	} {
		if err := unix.Sendto(fd, piece, 0, &unix.SockaddrInet6{Addr: to.Addr().As16()}); err != nil {
			return err
		}
	}
	return nil
}

// sendFrame sends a query as an Ethernet frame by an interface.
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
	udp := UDPFrom(from.Port(), to.Port())
	if to.Addr().Is4() {
		frame = append(append(frame, 0x08, 0x00), ip4Header(from.Addr(), to.Addr(), len(udp))...)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64)
		frame = append(append(frame, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	}
	frame = append(frame, udp...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Halen: 6})
}

// forge sends a datagram with a forged source address.
func forge(from, to netip.AddrPort) error {
	udp := UDPFrom(from.Port(), to.Port())
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
