// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// Compressed returns r with compressed names if that makes it shorter, so that fewer
// replies are truncated, and true; otherwise r and false. It is meant for replies that some
// clients cannot receive in one datagram, of servers that do not compress; for other
// replies it does nothing. The result has memory of its own.
func (r *Reply) Compressed() (Reply, bool) {
	const own = 2 // names that a compressed reply may have in full
	if len(r.Msg)+optLen <= MinUDPSize || r.full <= own {
		return *r, false
	}
	out, ok := r.rebuild(func(int, uint16) bool { return true })
	if !ok || len(out.Msg) >= len(r.Msg) {
		return *r, false
	}
	return out, true
}

// WithoutSignatures returns the reply to the same question with DO=0, made of the reply r
// to it with DO=1: RRSIG, NSEC and NSEC3 records are removed (RFC 4035 §3.2.1), except from
// the answer if the question has their type. It reports false if the question has type ANY,
// or if the reply cannot be made. The result has memory of its own; TTL, AD and EDEs stay.
func (r *Reply) WithoutSignatures() (Reply, bool) {
	qtype := binary.BigEndian.Uint16(r.Msg[r.QEnd-4:])
	if qtype == TypeANY {
		return Reply{}, false
	}
	return r.rebuild(func(section int, typ uint16) bool {
		switch typ {
		case TypeRRSIG, TypeNSEC, TypeNSEC3:
			return section == SectionAnswer && typ == qtype
		}
		return true
	})
}

// rebuild returns a copy of r with the records that keep selects, and with compressed
// names. It reports false if the copy would be too long.
func (r *Reply) rebuild(keep func(section int, typ uint16) bool) (Reply, bool) {
	b := builder{src: r.Msg, out: append(make([]byte, 0, len(r.Msg)), r.Msg[:r.QEnd]...)}
	b.register(b.out[HeaderLen:r.QEnd-4], HeaderLen)
	out := *r
	out.TTLs = make([]uint16, 0, len(r.TTLs))
	an, ns, _ := counts(r.Msg)
	var kept [3]uint16
	for i := range r.TTLs {
		section := SectionAnswer
		if i >= an+ns {
			section = SectionAdditional
		} else if i >= an {
			section = SectionAuthority
		}
		if !keep(section, r.typeOf(i)) {
			continue
		}
		out.TTLs = append(out.TTLs, uint16(b.record(r.owner(i), int(r.TTLs[i]), r.end(i+1))))
		if len(b.out) > MaxMessage {
			return Reply{}, false
		}
		kept[section]++
	}
	for section, n := range kept {
		binary.BigEndian.PutUint16(b.out[6+2*section:], n)
	}
	out.Msg = b.out
	out.Rotate, out.full = out.rotatable(), 0
	return out, true
}

// builder writes a message with compressed names. A pointer refers only to names in
// positions in which every receiver expects one: owners, and the RDATA of the types of RFC
// 1035. The zero value of a slot is empty: no name is at offset 0.
type builder struct {
	src, out []byte
	slots    [builderSlots]uint16 // offsets in out of names and their suffixes, by hash
	used     int
}

// builderSlots is a power of two. Names that do not find a place are not referred to.
const builderSlots = 512

// record appends the record of src whose owner, TTL and end are there, and returns the
// offset of its TTL.
func (b *builder) record(owner, ttl, end int) int {
	b.name(owner, true, false)
	b.out = append(b.out, b.src[ttl-4:ttl+6]...)
	at := len(b.out)
	b.data(binary.BigEndian.Uint16(b.src[ttl-4:]), ttl+6, end)
	binary.BigEndian.PutUint16(b.out[at-2:], uint16(len(b.out)-at))
	return at - 6
}

// data appends RDATA from off to end, which walker.data has checked.
func (b *builder) data(typ uint16, off, end int) {
	l := layoutIn(typ, b.src[off:end])
	if l.names == 0 {
		b.out = append(b.out, b.src[off:end]...)
		return
	}
	first := off + l.before
	for range l.strings {
		first += 1 + int(b.src[first])
	}
	b.out = append(b.out, b.src[off:first]...)
	off = first
	for n := l.names; n > 0 || n == namesToEnd && off < end; n = max(n-1, namesToEnd) {
		off = b.name(off, isCompressible(typ), true)
	}
	b.out = append(b.out, b.src[off:end]...)
}

// isCompressible reports whether names in the RDATA of a type may be compressed (RFC 3597
// §4).
func isCompressible(typ uint16) bool {
	switch typ {
	case TypeNS, TypeMD, TypeMF, TypeCNAME, TypeSOA, TypeMB, TypeMG, TypeMR, TypePTR, TypeMINFO, TypeMX:
		return true
	}
	return false
}

// name appends the name of src at off, and returns the offset after it. With exact set its
// spelling stays the same.
func (b *builder) name(off int, compress, exact bool) int {
	after, err := skipName(b.src, off)
	if err != nil {
		return off // not reached: the walker has checked it
	}
	var room [MaxName]byte
	full := appendPlain(room[:0], b.src, off)
	if !compress {
		b.out = append(b.out, full...)
		return after
	}
	var hashes [MaxName/2 + 1]uint32
	starts := hashSuffixes(full, &hashes)
	at, cut := len(b.out), 0
	for i := range starts {
		if to := b.find(full[cut:], hashes[i], exact); to != 0 {
			b.out = append(b.out, full[:cut]...)
			b.out = binary.BigEndian.AppendUint16(b.out, 0xC000|uint16(to))
			b.insert(full, &hashes, i, at)
			return after
		}
		cut += 1 + int(full[cut])
	}
	b.out = append(b.out, full...)
	b.insert(full, &hashes, starts, at)
	return after
}

// register makes a name that was written at that offset a target of pointers.
func (b *builder) register(name []byte, at int) {
	var hashes [MaxName/2 + 1]uint32
	b.insert(name, &hashes, hashSuffixes(name, &hashes), at)
}

// hashSuffixes sets the hash of each suffix of a name, the root excepted, and returns their
// number. The hash ignores case.
func hashSuffixes(name []byte, hashes *[MaxName/2 + 1]uint32) int {
	var starts [MaxName / 2]uint8
	n := 0
	for off := 0; name[off] != 0; off += 1 + int(name[off]) {
		starts[n] = uint8(off)
		n++
	}
	h := uint32(2166136261) // FNV-1a, from the last label to the first
	for i := n - 1; i >= 0; i-- {
		off := int(starts[i])
		for _, c := range name[off : off+1+int(name[off])] {
			h = (h ^ uint32(Lower(c))) * 16777619
		}
		hashes[i] = h
	}
	return n
}

// insert enters the first n suffixes of a name that was written at that offset.
func (b *builder) insert(name []byte, hashes *[MaxName/2 + 1]uint32, n, at int) {
	off := 0
	for i := range n {
		if at+off >= 1<<14 || b.used >= builderSlots*3/4 {
			return
		}
		slot := hashes[i] % builderSlots
		for b.slots[slot] != 0 {
			slot = (slot + 1) % builderSlots
		}
		b.slots[slot] = uint16(at + off)
		b.used++
		off += 1 + int(name[off])
	}
}

// find returns the offset at which a name was written, or 0.
func (b *builder) find(name []byte, hash uint32, exact bool) int {
	for slot := hash % builderSlots; b.slots[slot] != 0; slot = (slot + 1) % builderSlots {
		if off := int(b.slots[slot]); b.isAt(name, off, exact) {
			return off
		}
	}
	return 0
}

// isAt reports whether a name is at that offset of out.
func (b *builder) isAt(name []byte, off int, exact bool) bool {
	for {
		for b.out[off] >= 0xC0 {
			off = int(b.out[off]&0x3F)<<8 | int(b.out[off+1])
		}
		n := 1 + int(b.out[off])
		if n > len(name) {
			return false
		}
		label := b.out[off : off+n]
		if exact && string(label) != string(name[:n]) || !sameName(label, name[:n]) {
			return false
		}
		if n == 1 {
			return true
		}
		off, name = off+n, name[n:]
	}
}
