// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Question is the payload of a query.
const Question = "who is it?" // QR is 0

// Answer is the payload of a reply: its third byte has the bit QR.
const Answer = "an\xe9 answer"

// UDPFrom returns a UDP datagram with [Question], without a checksum.
func UDPFrom(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(Question)))
	return append(append(b, 0, 0), Question...)
}

// Source and destination addresses of packets. The sources are those of the lab's host.
var (
	From4, To4 = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("8.8.8.8")
	From6, To6 = netip.MustParseAddr("fd77::2"), netip.MustParseAddr("2001:db8::53")
)

// Packet4 returns an IPv4 packet from From4. fragment is the field with the flags and the
// fragment offset.
func Packet4(protocol uint8, fragment uint16, to netip.Addr, transport []byte) []byte {
	ip := ip4Header(From4, to, len(transport))
	ip[9] = protocol
	binary.BigEndian.PutUint16(ip[6:], fragment)
	return append(ip, transport...)
}

// Packet6 returns an IPv6 packet from From6. rest are extension headers and the transport
// header; first is the protocol number of the first one. The first byte of each extension
// header is the protocol number of the next header.
func Packet6(to netip.Addr, first uint8, rest ...[]byte) []byte {
	payload := slices.Concat(rest...)
	ip := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), first, 64}
	return slices.Concat(ip, From6.AsSlice(), to.AsSlice(), payload)
}

// UDP is UDPFrom with an arbitrary source port.
func UDP(port uint16) []byte { return UDPFrom(40000, port) }

// TCP returns a TCP segment from the same source port.
func TCP(port uint16, flags byte, payload string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40}, port)
	return append(append(b, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 1, 0, 0, 0, 0, 0), payload...)
}

func ip4Header(from, to netip.Addr, size int) []byte {
	ip := []byte{0x45, 0, 0, byte(20 + size), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return ip
}

// ip6Datagram returns an IPv6 packet with a datagram, and sets the checksum that IPv6 requires
// (RFC 8200 §8.1).
func ip6Datagram(from, to netip.Addr, udp []byte) []byte {
	udp = bytes.Clone(udp)
	addrs := append(from.AsSlice(), to.AsSlice()...)
	size := byte(len(udp)) // even, because the length of Question is
	sum := checksum(slices.Concat(addrs, []byte{0, 0, 0, size, 0, 0, 0, unix.IPPROTO_UDP}, udp))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, size, unix.IPPROTO_UDP, 64}, addrs, udp)
}

// checksum returns the checksum of RFC 1071. The length of b is even.
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
