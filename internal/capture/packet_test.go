// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

// udp4 returns an IPv4 packet with a UDP datagram.
func udp4(src, dst string, payload string) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	b := make([]byte, 28, 28+len(payload))
	b[0], b[9] = 0x45, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], s.Addr().AsSlice())
	copy(b[16:], d.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], s.Port())
	binary.BigEndian.PutUint16(b[22:], d.Port())
	return append(b, payload...)
}

// ip6 returns an IPv6 packet with the given next-header value and payload.
func ip6(next byte, rest string) []byte {
	b := make([]byte, 40, 40+len(rest))
	b[0], b[6], b[23], b[39] = 0x60, next, 1, 2
	binary.BigEndian.PutUint16(b[4:], uint16(len(rest)))
	return append(b, rest...)
}

const question = "\x00\x01\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\x03wWw\x01.\x00\x00\x41\x00\x01"

func TestParse(t *testing.T) {
	udp53 := "\x00\x35\x04\x00\x00\x00\x00\x00" + question
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"UDP", "UDP 10.0.0.1:1024 > 10.0.0.2:53, 51 bytes: wWw.\\046. HTTPS", udp4("10.0.0.1:1024", "10.0.0.2:53", question)},
		{"OtherPort", "UDP 10.0.0.1:1024 > 10.0.0.2:54, 51 bytes", udp4("10.0.0.1:1024", "10.0.0.2:54", question)},
		{"TrailingPadding", "UDP 10.0.0.1:1 > 10.0.0.2:2, 28 bytes", append(udp4("10.0.0.1:1", "10.0.0.2:2", ""), 0, 0, 0)},
		{"IPv6", "UDP [::1]:53 > [::2]:1024, 71 bytes: wWw.\\046. HTTPS", ip6(17, udp53)},
		{"IPv6Options", "UDP [::1]:53 > [::2]:1024, 79 bytes: wWw.\\046. HTTPS", ip6(0, "\x11\x00\x00\x00\x00\x00\x00\x00"+udp53)},
		{"IPv6FirstFragment", "UDP [::1]:53 > [::2]:1024, 79 bytes: wWw.\\046. HTTPS", ip6(44, "\x11\x00\x00\x01\x00\x00\x00\x00"+udp53)},
		{"IPv6LaterFragment", "UDP [::1]:0 > [::2]:0, 79 bytes", ip6(44, "\x11\x00\x00\x08\x00\x00\x00\x00"+udp53)},
		{"UDPLite", "UDP-Lite [::1]:53 > [::2]:1024, 71 bytes: wWw.\\046. HTTPS", ip6(136, udp53)},
		{"PartOfTCPHeader", "TCP [::1]:53 > [::2]:1024, 48 bytes", ip6(6, udp53[:8])},
		{"IPv6OnlyOptions", "UDP [::1]:0 > [::2]:0, 56 bytes", ip6(44, "\x3c\x00\x00\x01\x00\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00\x00")},
		{"OtherProtocol", "protocol 132 [::1]:0 > [::2]:0, 41 bytes", ip6(132, "x")},
	} {
		p, ok := parse(tt.data)
		if p.Opaque() != strings.Contains(tt.want, "]:0 > ") && tt.name != "OtherProtocol" {
			t.Errorf("%s: %v is opaque: %t", tt.name, p, p.Opaque())
		}
		if !ok || p.String() != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.name, p, ok, tt.want)
		}
		// Truncated at any length, it must not be read past its end.
		for i := range tt.data {
			parse(tt.data[:i])
		}
	}
	for _, data := range [][]byte{nil, make([]byte, 60), {0x45}, append([]byte{0x41}, make([]byte, 30)...)} {
		if p, ok := parse(data); ok {
			t.Errorf("parse(%x) = %v", data, p)
		}
	}
}

// TestPlain checks that a name in plain text counts on any port.
func TestPlain(t *testing.T) {
	var packets []Packet
	for _, b := range [][]byte{
		udp4("10.0.0.1:1024", "10.0.0.2:53", "x"),
		udp4("10.0.0.2:53", "10.0.0.1:1024", "x"),
		ip6(136, "\x04\x00\x00\x35\x00\x00\x00\x00"),
		ip6(44, "\x06\x00\x00\x01\x00\x00\x00\x00\x04\x00\x00\x35\x00\x00\x00\x00"),
		udp4("10.0.0.1:1024", "10.0.0.2:853", "SNI eXample.com"),
		udp4("10.0.0.1:1024", "10.0.0.2:853", "..\x07example\x03com\x00"),
		udp4("10.0.0.1:1024", "10.0.0.2:853", "sealed"),
	} {
		p, _ := parse(b)
		packets = append(packets, p)
	}
	if n := len(Plain(packets)); n != 4 {
		t.Errorf("%d packets on port 53, want 4", n)
	}
	if n := len(Plain(packets, "example.com.")); n != 6 {
		t.Errorf("%d plain packets, want 6", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(udp4("10.0.0.1:1024", "10.0.0.2:53", question))
	f.Add(ip6(44, "\x11\x00\x00\x01\x00\x00\x00\x00\x00\x35\x04\x00\x00\x00\x00\x00"+question))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, ok := parse(data); ok && (p.Length > len(data) || p.String() == "") {
			t.Errorf("%x parsed to %v", data, p)
		}
	})
}
