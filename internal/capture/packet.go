// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is one IP packet.
type Packet struct {
	Time     time.Time
	Protocol uint8 // of the transport: unix.IPPROTO_UDP, …
	Src, Dst netip.AddrPort
	Length   int    // of the IP packet
	Payload  []byte // of the transport; nil in fragments after the first
	Flags    uint8  // of TCP (RFC 9293 §3.1)

	// Fragment marks the fragments after the first, which have no ports.
	Fragment bool

	// Question is the question of a plain DNS message on port 53, "NAME TYPE" with
	// the name in presentation form; "" for other packets.
	Question string
	Response bool // the DNS message is a response

	// Record is the type of the TLS record at the start of the payload (RFC 8446
	// §5.1), such as 22 for handshake and 23 for application data; 0 for none.
	Record uint8
}

// Port returns the packets to or from one of the ports, over UDP, UDP-Lite and TCP.
func Port(packets []Packet, ports ...uint16) []Packet {
	var out []Packet
	for _, p := range packets {
		if hasPorts(p.Protocol) && (slices.Contains(ports, p.Src.Port()) || slices.Contains(ports, p.Dst.Port())) {
			out = append(out, p)
		}
	}
	return out
}

// hasPorts reports whether a protocol's header starts with source and destination
// port.
func hasPorts(protocol uint8) bool {
	return protocol == unix.IPPROTO_UDP || protocol == unix.IPPROTO_UDPLITE || protocol == unix.IPPROTO_TCP
}

// Opaque reports whether the packet is a fragment without ports: one after the first,
// or a first fragment that ends before them.
func (p Packet) Opaque() bool {
	return p.Fragment || hasPorts(p.Protocol) && p.Src.Port() == 0 && p.Dst.Port() == 0
}

// Plain returns the packets to or from port 53, and packets on any port whose payload
// contains one of the names in plain text. Names are in presentation form.
func Plain(packets []Packet, names ...string) []Packet {
	out := Port(packets, 53)
	for _, p := range packets {
		port53 := p.Src.Port() == 53 || p.Dst.Port() == 53
		if !port53 && slices.ContainsFunc(names, func(name string) bool { return p.Contains(name) }) {
			out = append(out, p)
		}
	}
	return out
}

// Contains reports whether the payload contains the name, in wire or in text form.
func (p *Packet) Contains(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	var wire []byte
	for label := range strings.SplitSeq(name, ".") {
		wire = append(append(wire, byte(len(label))), label...)
	}
	lower := bytes.ToLower(p.Payload)
	return name != "" && (bytes.Contains(lower, wire) || bytes.Contains(lower, []byte(name)))
}

// String returns a one-line description of the packet.
func (p Packet) String() string {
	proto := map[uint8]string{unix.IPPROTO_UDP: "UDP", unix.IPPROTO_UDPLITE: "UDP-Lite", unix.IPPROTO_TCP: "TCP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMP"}[p.Protocol]
	if proto == "" {
		proto = fmt.Sprintf("protocol %d", p.Protocol)
	}
	s := fmt.Sprintf("%s %s > %s, %d bytes", proto, p.Src, p.Dst, p.Length)
	if p.Question != "" {
		s += ": " + p.Question
	}
	if p.Record != 0 {
		s += fmt.Sprintf(": TLS record %d", p.Record)
	}
	return s
}

// parse parses an IP packet. It reports false for anything else.
func parse(data []byte) (Packet, bool) {
	if len(data) < 20 {
		return Packet{}, false
	}
	var p Packet
	var rest []byte
	var ok bool
	switch data[0] >> 4 {
	case 4:
		rest, ok = p.parse4(data)
	case 6:
		rest, ok = p.parse6(data)
	}
	if !ok {
		return Packet{}, false
	}
	if !p.Fragment {
		p.parseTransport(rest)
	}
	return p, true
}

func (p *Packet) parse4(b []byte) ([]byte, bool) {
	header := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 {
		total = len(b) // not yet segmented by the kernel (BIG TCP)
	}
	if header < 20 || total < header || total > len(b) {
		return nil, false
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	p.Protocol, p.Length = b[9], total
	p.Fragment = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	return b[header:total], true
}

func (p *Packet) parse6(b []byte) ([]byte, bool) {
	if len(b) < 40 {
		return nil, false
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total == 40 {
		total = len(b)
	}
	if total > len(b) {
		return nil, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	p.Protocol, p.Length = b[6], total
	rest := b[40:total]
	for {
		var size int
		switch p.Protocol {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(rest) < 8 {
				return nil, false
			}
			size = 8 + 8*int(rest[1])
		case unix.IPPROTO_FRAGMENT:
			if len(rest) < 8 {
				return nil, false
			}
			size = 8
			p.Fragment = binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
		default:
			return rest, true
		}
		if len(rest) < size {
			return nil, false
		}
		p.Protocol, rest = rest[0], rest[size:]
		if p.Fragment {
			return rest, true
		}
	}
}

// parseTransport reads ports and payload, and identifies DNS questions and TLS records.
func (p *Packet) parseTransport(b []byte) {
	if !hasPorts(p.Protocol) {
		p.Payload = bytes.Clone(b)
		return
	}
	// A first fragment may contain the ports but not the whole header.
	if len(b) < 4 {
		return
	}
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	header := 8
	if p.Protocol == unix.IPPROTO_TCP {
		if len(b) < 20 {
			return
		}
		header = int(b[12]>>4) * 4
		p.Flags = b[13]
	}
	if len(b) < header || header < 8 {
		return
	}
	p.Payload = bytes.Clone(b[header:])
	plain := p.Src.Port() == 53 || p.Dst.Port() == 53
	switch {
	case plain && p.Protocol != unix.IPPROTO_TCP:
		p.parseQuestion(p.Payload)
	case plain && len(p.Payload) > 2:
		p.parseQuestion(p.Payload[2:]) // RFC 1035 §4.2.2: preceded by its length
	case len(p.Payload) >= 5 && p.Payload[0] >= 20 && p.Payload[0] <= 23 && p.Payload[1] == 3:
		p.Record = p.Payload[0]
	}
}

// parseQuestion reads the first question of a DNS message.
func (p *Packet) parseQuestion(b []byte) {
	if len(b) < 12 || binary.BigEndian.Uint16(b[4:]) == 0 {
		return
	}
	response := b[2]&0x80 != 0
	var name strings.Builder
	for b = b[12:]; ; {
		if len(b) < 1 {
			return
		}
		n := int(b[0])
		if n == 0 {
			b = b[1:]
			break
		}
		if n > 63 || len(b) < 1+n {
			return
		}
		for _, c := range b[1 : 1+n] {
			if c <= ' ' || c > '~' || c == '.' || c == '\\' {
				fmt.Fprintf(&name, "\\%03d", c)
			} else {
				name.WriteByte(c)
			}
		}
		name.WriteByte('.')
		b = b[1+n:]
	}
	if len(b) < 4 {
		return
	}
	if name.Len() == 0 {
		name.WriteByte('.')
	}
	p.Question, p.Response = name.String()+" "+typeName(binary.BigEndian.Uint16(b)), response
}

// typeName returns the mnemonic of a record type, as dig prints it.
func typeName(t uint16) string {
	name, ok := map[uint16]string{
		1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 64: "SVCB", 65: "HTTPS", 255: "ANY",
	}[t]
	if !ok {
		return fmt.Sprintf("TYPE%d", t) // RFC 3597
	}
	return name
}
