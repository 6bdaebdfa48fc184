// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/binary"

	"sotto/forwarder/wire"
)

// RRSIG is a signature (RFC 4034 §3).
type RRSIG struct {
	Covered    uint16
	Algorithm  uint8
	Labels     uint8
	OrigTTL    uint32
	Expiration uint32 // seconds since 1970, modulo 2³²
	Inception  uint32
	Tag        uint16
	Signer     Name
	Signature  []byte
	fixed      []byte // the fields before the signer's name
}

const rrsigFixed = 18

func parseRRSIG(msg []byte, at, end int) (s RRSIG, ok bool) {
	if at+rrsigFixed >= end {
		return s, false
	}
	d := msg[at:]
	s = RRSIG{
		Covered: binary.BigEndian.Uint16(d), Algorithm: d[2], Labels: d[3], OrigTTL: binary.BigEndian.Uint32(d[4:]),
		Expiration: binary.BigEndian.Uint32(d[8:]), Inception: binary.BigEndian.Uint32(d[12:]), Tag: binary.BigEndian.Uint16(d[16:]),
		fixed: d[:rrsigFixed],
	}
	var room [wire.MaxName]byte
	signer, off, ok := appendName(room[:0], msg, at+rrsigFixed, true)
	if !ok || off > end {
		return s, false
	}
	s.Signer, s.Signature = Name(signer), msg[off:end]
	return s, true
}

// AppendSigned appends the data that sig signs (RFC 4034 §3.1.8.1) for the RRset. It reports false
// if the signature has more labels than the owner.
func (s *Set) AppendSigned(dst []byte, sig *RRSIG) (_ []byte, ok bool) {
	owner, labels := s.Owner, s.Owner.Labels()
	if owner.IsWildcard() {
		labels--
	}
	if int(sig.Labels) > labels {
		return dst, false
	}
	wild := int(sig.Labels) < labels
	if wild {
		owner = owner.Suffix(int(sig.Labels))
	}
	dst = append(dst, sig.fixed...)
	dst = append(dst, sig.Signer...)
	for _, data := range s.Data {
		if wild {
			dst = append(dst, 1, '*')
		}
		dst = append(dst, owner...)
		dst = append(dst, byte(s.Type>>8), byte(s.Type), byte(s.Class>>8), byte(s.Class))
		dst = binary.BigEndian.AppendUint32(dst, sig.OrigTTL)
		dst = append(dst, byte(len(data)>>8), byte(len(data)))
		dst = append(dst, data...)
	}
	return dst, true
}

// Expanded returns the closest encloser from which sig's RRset was expanded by a wildcard (RFC
// 4035 §5.3.4). It reports false if it was not.
func (s *Set) Expanded(sig *RRSIG) (encloser Name, ok bool) {
	labels := s.Owner.Labels()
	if s.Owner.IsWildcard() {
		labels--
	}
	if int(sig.Labels) >= labels {
		return "", false
	}
	return s.Owner.Suffix(int(sig.Labels)), true
}

// Flags of a DNSKEY.
const (
	FlagZone   = 0x0100
	FlagRevoke = 0x0080 // RFC 5011 §7
)

// DNSKEY is the RDATA of a key (RFC 4034 §2). It has at least four bytes.
type DNSKEY []byte

// Flags, Protocol, Algorithm and Public return the fields of the key.
func (k DNSKEY) Flags() uint16    { return binary.BigEndian.Uint16(k) }
func (k DNSKEY) Protocol() uint8  { return k[2] }
func (k DNSKEY) Algorithm() uint8 { return k[3] }
func (k DNSKEY) Public() []byte   { return k[4:] }

// Usable reports whether the key may verify signatures of a zone.
func (k DNSKEY) Usable() bool {
	return len(k) > 4 && k.Protocol() == 3 && k.Flags()&FlagZone != 0 && k.Flags()&FlagRevoke == 0
}

// Tag returns the key tag (RFC 4034 appendix B).
func (k DNSKEY) Tag() uint16 {
	var sum uint32
	for i, b := range k {
		if i&1 == 0 {
			sum += uint32(b) << 8
		} else {
			sum += uint32(b)
		}
	}
	return uint16(sum + sum>>16)
}

// DS is a delegation signer (RFC 4034 §5).
type DS struct {
	Tag       uint16
	Algorithm uint8
	Type      uint8 // of the digest
	Digest    []byte
}

// ParseDS parses the RDATA of a DS record.
func ParseDS(data []byte) (d DS, ok bool) {
	if len(data) < 5 {
		return d, false
	}
	return DS{binary.BigEndian.Uint16(data), data[2], data[3], data[4:]}, true
}

// Bitmap is a list of types (RFC 4034 §4.1.2).
type Bitmap []byte

// Has reports whether the list has a type.
func (b Bitmap) Has(typ uint16) bool {
	for len(b) >= 2 {
		n := int(b[1])
		if n == 0 || n > 32 || 2+n > len(b) {
			return false
		}
		if b[0] == byte(typ>>8) {
			at := int(typ & 0xFF >> 3)
			return at < n && b[2+at]&(0x80>>(typ&7)) != 0
		}
		b = b[2+n:]
	}
	return false
}

// valid reports whether b is well-formed: windows in increasing order, none empty.
func (b Bitmap) valid() bool {
	for last := -1; len(b) > 0; {
		if len(b) < 2 || int(b[0]) <= last || b[1] == 0 || b[1] > 32 || 2+int(b[1]) > len(b) {
			return false
		}
		last = int(b[0])
		b = b[2+int(b[1]):]
	}
	return true
}

// Only reports whether the list has no types but those.
func (b Bitmap) Only(types ...uint16) bool {
	var rest Bitmap = b
	count := 0
	for len(rest) >= 2 && 2+int(rest[1]) <= len(rest) {
		for _, c := range rest[2 : 2+int(rest[1])] {
			for ; c != 0; c &= c - 1 {
				count++
			}
		}
		rest = rest[2+int(rest[1]):]
	}
	for _, t := range types {
		if b.Has(t) {
			count--
		}
	}
	return count == 0
}

// NSEC is the content of an NSEC record (RFC 4034 §4).
type NSEC struct {
	Next  Name
	Types Bitmap
}

// ParseNSEC parses the RDATA of an NSEC record, whose name is not compressed.
func ParseNSEC(data []byte) (n NSEC, ok bool) {
	var room [wire.MaxName]byte
	name, off, ok := appendName(room[:0], data, 0, true)
	if !ok || off > len(data) {
		return n, false
	}
	n = NSEC{Name(name), Bitmap(data[off:])}
	return n, n.Types.valid()
}

// NSEC3 is the content of an NSEC3 record (RFC 5155 §3).
type NSEC3 struct {
	Hash       uint8
	OptOut     bool
	Iterations uint16
	Salt       []byte
	Next       []byte // hash of the next owner
	Types      Bitmap
}

// ParseNSEC3 parses the RDATA of an NSEC3 record. Records with unknown flags are ignored (RFC 5155
// §8.2), so they do not parse.
func ParseNSEC3(data []byte) (n NSEC3, ok bool) {
	if len(data) < 6 || data[1] > 1 {
		return n, false
	}
	n = NSEC3{Hash: data[0], OptOut: data[1]&1 != 0, Iterations: binary.BigEndian.Uint16(data[2:])}
	rest := data[4:]
	if n.Salt, rest, ok = counted(rest); !ok {
		return n, false
	}
	if n.Next, rest, ok = counted(rest); !ok || len(n.Next) == 0 {
		return n, false
	}
	n.Types = Bitmap(rest)
	return n, n.Types.valid()
}

// counted splits off a field that starts with its length.
func counted(b []byte) (field, rest []byte, ok bool) {
	if len(b) == 0 || 1+int(b[0]) > len(b) {
		return nil, nil, false
	}
	return b[1 : 1+int(b[0])], b[1+int(b[0]):], true
}
