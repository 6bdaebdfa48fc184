// SPDX-License-Identifier: Apache-2.0

package drops

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Packet is what can be read of an IP packet.
type Packet struct {
	Src, Dst netip.AddrPort // invalid if the IP header cannot be read; without ports in a later fragment
	Protocol uint16         // IPPROTO_*
	// Message is a DNS message, or the start of one; nil if there is none that can be read. Of a
	// TCP segment it is the first message, if the segment starts with one.
	Message []byte
}

const (
	ip4Len, ip6Len, udpLen, tcpLen = 20, 40, 8, 20

	// maxExtensions is MAX_EXTENSIONS in bpf/packet.h.
	maxExtensions = 8
)

// Parse reads the start of a packet, from its IP header. The result refers to b.
func Parse(b []byte) (p Packet) {
	var src, dst netip.Addr
	var rest []byte // from the transport header; nil if that is in another fragment
	switch {
	case len(b) >= ip4Len && b[0]>>4 == 4:
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		p.Protocol = uint16(b[9])
		if at := int(b[0]&15) * 4; at >= ip4Len && at <= len(b) && binary.BigEndian.Uint16(b[6:])&0x1fff == 0 {
			rest = b[at:]
		}
	case len(b) >= ip6Len && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		p.Protocol, rest = skipExtensions(b[6], b[ip6Len:])
	default:
		return p
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	p.readTransport(rest)
	return p
}

// skipExtensions returns the transport protocol and what follows the extension headers of IPv6
// (RFC 8200 §4), nil in a fragment without the transport header.
func skipExtensions(next uint8, b []byte) (protocol uint16, rest []byte) {
	for range maxExtensions {
		size := 0
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			size = 1
		case unix.IPPROTO_FRAGMENT, unix.IPPROTO_AH:
		default:
			return uint16(next), b
		}
		if len(b) < 8 {
			return uint16(next), nil
		}
		switch {
		case size == 1:
			size = (int(b[1]) + 1) * 8
		case next == unix.IPPROTO_AH:
			size = (int(b[1]) + 2) * 4 // RFC 4302 §2.2
		default:
			size = 8
			if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return uint16(b[0]), nil
			}
		}
		if size > len(b) {
			return uint16(b[0]), nil
		}
		next, b = b[0], b[size:]
	}
	return uint16(next), nil
}

// readTransport reads ports and message.
func (p *Packet) readTransport(b []byte) {
	stream := p.Protocol == unix.IPPROTO_TCP
	if !stream && p.Protocol != unix.IPPROTO_UDP && p.Protocol != unix.IPPROTO_UDPLITE || len(b) < udpLen {
		return
	}
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	at := udpLen
	if stream {
		if len(b) < tcpLen {
			return
		}
		at = int(b[12]>>4)*4 + 2 // the length field of the message (RFC 1035 §4.2.2)
	}
	if at < len(b) {
		p.Message = bytes.Clone(b[at:])
	}
}
