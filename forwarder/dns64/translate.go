// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"

	"sotto/forwarder/wire"
)

const (
	// defaultTTL limits the TTL of an address if the negative answer has no SOA (RFC 6147 §5.1.7).
	defaultTTL = 600

	bitQR, bitTC, bitRD = 0x80, 0x02, 0x01 // third byte of the header
	bitRA, bitCD        = 0x80, 0x10       // fourth byte
)

// verdict is the meaning of an answer to AAAA.
type verdict uint8

const (
	useAsIs   verdict = iota // it has addresses, or the name does not exist
	useOthers                // some of its addresses are excluded
	translate                // it has no address that a client could use
)

// judge decides about the answer to a query for AAAA.
func judge(reply []byte) verdict {
	rcode := wire.Rcode(reply)
	if rcode == wire.RcodeNXDomain {
		return useAsIs
	}
	usable, excluded := false, false
	for rr := range wire.Records(reply) {
		if rr.Section != wire.SectionAnswer {
			break
		}
		if rr.Type == wire.TypeAAAA && rr.End-rr.Data == 16 {
			if isExcluded(reply[rr.Data:rr.End]) {
				excluded = true
			} else {
				usable = true
			}
		}
	}
	switch {
	case !usable:
		return translate
	case excluded:
		return useOthers
	}
	return useAsIs
}

func isExcluded(data []byte) bool { return mapped.Contains(netip.AddrFrom16([16]byte(data))) }

// negativeTTL returns the limit that a negative answer sets for the TTL of translated addresses.
func negativeTTL(reply []byte) uint32 {
	for rr := range wire.Records(reply) {
		if rr.Section == wire.SectionAuthority && rr.Type == wire.TypeSOA && rr.End-rr.Data >= 4 {
			return min(rr.TTL, binary.BigEndian.Uint32(reply[rr.End-4:]))
		}
	}
	return defaultTTL
}

// builder assembles an answer.
type builder struct {
	msg       []byte
	count     uint16
	lastOwner []byte // expanded; of the record before
	lastAt    int    // where its name starts
	nameRoom  []byte
}

// newBuilder starts an answer with the question of query and the flags of reply. AD is clear, since
// the records are not those that were signed.
func newBuilder(query, reply []byte) *builder {
	name, _, _ := wire.QuestionOf(query)
	end := wire.HeaderLen + len(name) + 4
	b := &builder{msg: make([]byte, 0, len(reply)+128), lastOwner: name, lastAt: wire.HeaderLen}
	b.msg = append(b.msg, 0, 0, bitQR|query[2]&bitRD|reply[2]&bitTC, bitRA|query[3]&bitCD|reply[3]&0x0F, 0, 1, 0, 0, 0, 0, 0, 0)
	b.msg = append(b.msg, query[wire.HeaderLen:end]...)
	return b
}

// owner appends the name at off of a message, as a pointer if it is the same as that of the record
// before.
func (b *builder) owner(msg []byte, off int) bool {
	name, ok := wire.AppendExpanded(b.nameRoom[:0], msg, off)
	if !ok {
		return false
	}
	b.nameRoom = name
	if bytes.EqualFold(name, b.lastOwner) && b.lastAt < 1<<14 {
		b.msg = binary.BigEndian.AppendUint16(b.msg, 0xC000|uint16(b.lastAt))
		return true
	}
	b.lastAt = len(b.msg)
	b.lastOwner = append([]byte(nil), name...)
	b.msg = append(b.msg, name...)
	return true
}

// data appends the fields of a record after its owner.
func (b *builder) data(typ, class uint16, ttl uint32, data []byte) {
	b.msg = binary.BigEndian.AppendUint16(b.msg, typ)
	b.msg = binary.BigEndian.AppendUint16(b.msg, class)
	b.msg = binary.BigEndian.AppendUint32(b.msg, ttl)
	b.msg = binary.BigEndian.AppendUint16(b.msg, uint16(len(data)))
	b.msg = append(b.msg, data...)
	b.count++
}

// copyRecord appends a record of msg. The names in the data of those that may be compressed are
// expanded.
func (b *builder) copyRecord(msg []byte, rr wire.RR) bool {
	data := msg[rr.Data:rr.End]
	if rr.Type == wire.TypeCNAME || rr.Type == wire.TypePTR || rr.Type == wire.TypeDNAME {
		var ok bool
		if data, ok = wire.AppendExpanded(nil, msg, rr.Data); !ok {
			return false
		}
	}
	if !b.owner(msg, rr.Owner) {
		return false
	}
	b.data(rr.Type, rr.Class, rr.TTL, data)
	return true
}

// finish returns the answer with the OPT record of reply, if that has one.
func (b *builder) finish(reply []byte) []byte {
	binary.BigEndian.PutUint16(b.msg[6:], b.count)
	for rr := range wire.Records(reply) {
		if rr.Section == wire.SectionAdditional && rr.Type == wire.TypeOPT {
			b.msg = append(b.msg, reply[rr.Owner:rr.End]...)
			b.msg[11] = 1
			break
		}
	}
	return b.msg
}

// synthesize returns the answer to query, which is for AAAA, from the answer to A. It reports
// false if that has no address that is translated.
func synthesize(p netip.Prefix, query, a []byte, limit uint32) ([]byte, bool) {
	if wire.Rcode(a) != wire.RcodeSuccess {
		return nil, false
	}
	b := newBuilder(query, a)
	translated := false
	for rr := range wire.Records(a) {
		if rr.Section != wire.SectionAnswer {
			break
		}
		ok := true
		switch {
		case rr.Class != wire.ClassIN:
		case rr.Type == wire.TypeCNAME || rr.Type == wire.TypeDNAME || rr.Type == wire.TypeRRSIG && covers(a, rr) != wire.TypeA:
			ok = b.copyRecord(a, rr)
		case rr.Type == wire.TypeA && rr.End-rr.Data == 4:
			v4 := netip.AddrFrom4([4]byte(a[rr.Data:rr.End]))
			if !translates(p, v4) {
				continue
			}
			v6 := Embed(p, v4).As16()
			ok = b.owner(a, rr.Owner)
			b.data(wire.TypeAAAA, wire.ClassIN, min(rr.TTL, limit), v6[:])
			translated = true
		}
		if !ok {
			return nil, false
		}
	}
	if !translated {
		return nil, false
	}
	return b.finish(a), true
}

// withoutRecords returns the answer to query with the rcode and the reasons of reply.
func withoutRecords(query, reply []byte) []byte { return newBuilder(query, reply).finish(reply) }

// covers returns the type that a signature covers.
func covers(msg []byte, rr wire.RR) uint16 {
	if rr.End-rr.Data < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(msg[rr.Data:])
}

// withoutExcluded returns an answer to AAAA without addresses that are excluded, and without
// signatures of those that are left.
func withoutExcluded(query, reply []byte) ([]byte, bool) {
	b := newBuilder(query, reply)
	for rr := range wire.Records(reply) {
		if rr.Section != wire.SectionAnswer {
			break
		}
		switch {
		case rr.Type == wire.TypeAAAA && rr.End-rr.Data == 16 && isExcluded(reply[rr.Data:rr.End]),
			rr.Type == wire.TypeRRSIG && covers(reply, rr) == wire.TypeAAAA:
			continue
		}
		if !b.copyRecord(reply, rr) {
			return nil, false
		}
	}
	return b.finish(reply), true
}

// reverse returns the answer to query, which is for PTR of an address of the prefix, from the
// answer for the name in in-addr.arpa.
func reverse(query, ptr []byte) ([]byte, bool) {
	target, _, _ := wire.QuestionOf(ptr)
	if len(target) == 0 {
		return nil, false
	}
	b := newBuilder(query, ptr)
	b.owner(query, wire.HeaderLen)
	ttl := uint32(defaultTTL)
	for rr := range wire.Records(ptr) {
		ttl = min(ttl, orDefault(rr))
	}
	b.data(wire.TypeCNAME, wire.ClassIN, ttl, target)
	for rr := range wire.Records(ptr) {
		switch {
		case rr.Section == wire.SectionAnswer && !b.copyRecord(ptr, rr):
			return nil, false
		case rr.Section == wire.SectionAuthority && rr.Type == wire.TypeSOA:
			return b.withSOA(ptr, rr), true
		}
	}
	return b.finish(ptr), true
}

// orDefault returns the TTL of a record that has one.
func orDefault(rr wire.RR) uint32 {
	if rr.Type == wire.TypeOPT {
		return defaultTTL
	}
	return rr.TTL
}

// withSOA finishes a negative answer with the SOA record of msg.
func (b *builder) withSOA(msg []byte, rr wire.RR) []byte {
	answers := b.count
	start := len(b.msg)
	if data, ok := expandSOA(msg, rr); ok && b.owner(msg, rr.Owner) {
		b.data(rr.Type, rr.Class, rr.TTL, data)
		b.msg[9] = 1
	} else {
		b.msg = b.msg[:start]
	}
	b.count = answers
	return b.finish(msg)
}

// expandSOA returns the RDATA of an SOA record without compression.
func expandSOA(msg []byte, rr wire.RR) ([]byte, bool) {
	data, ok := wire.AppendExpanded(nil, msg, rr.Data)
	if !ok || rr.End-rr.Data < 22 {
		return nil, false
	}
	second := rr.Data
	for msg[second] != 0 && msg[second] < 0xC0 {
		second += 1 + int(msg[second])
	}
	if second++; msg[second-1] >= 0xC0 {
		second++
	}
	if data, ok = wire.AppendExpanded(data, msg, second); !ok {
		return nil, false
	}
	return append(data, msg[rr.End-20:rr.End]...), true
}

// ip6Arpa is the end of the names of IPv6 addresses.
const ip6Arpa = "\x03ip6\x04arpa\x00"

// nibbles is the number of labels before ip6Arpa in the name of an address.
const nibbles = 32

// isReverse6 reports whether a name may be that of an IPv6 address.
func isReverse6(name []byte) bool {
	return len(name) == 2*nibbles+len(ip6Arpa) && strings.EqualFold(string(name[2*nibbles:]), ip6Arpa)
}

// reverseName returns the name in in-addr.arpa, in wire form, for the name of an IPv6 address that
// stands for an IPv4 address. It reports false for other names.
func reverseName(p netip.Prefix, name []byte) ([]byte, bool) {
	if !p.IsValid() || !isReverse6(name) {
		return nil, false
	}
	var a [16]byte
	for i := range nibbles {
		c := wire.Lower(name[2*i+1])
		n := bytes.IndexByte([]byte("0123456789abcdef"), c)
		if name[2*i] != 1 || n < 0 {
			return nil, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	v4, ok := Extract(p, netip.AddrFrom16(a))
	if !ok {
		return nil, false
	}
	var out []byte
	four := v4.As4()
	for i := 3; i >= 0; i-- {
		label := netip.AddrFrom4([4]byte{0, 0, 0, four[i]}).String()[len("0.0.0."):]
		out = append(append(out, byte(len(label))), label...)
	}
	return append(out, "\x07in-addr\x04arpa\x00"...), true
}
