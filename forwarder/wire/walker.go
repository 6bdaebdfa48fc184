// SPDX-License-Identifier: Apache-2.0

package wire

import "errors"

// walker walks one reply. What it has read already it keeps in a form in which
// no later pointer can be a lie.
type walker struct {
	msg   []byte
	qtype uint16

	// starts has a bit for every offset at which a label, a pointer or the end
	// of a checked name stands: what a pointer may lead to. That is stricter
	// than "backwards": into the header, a TTL or opaque data, which mean
	// something else as soon as AppendReply patches them, no pointer leads.
	// Fourteen bits are all that a pointer can say.
	starts [1 << 14 / 64]uint64

	// An OPT of cutLen bytes was cut out at cutAt: pointers beyond it are off
	// by so much.
	cutAt, cutLen int

	ttl      uint32 // least TTL so far
	minimum  uint32 // least MINIMUM of the authority section's SOA
	soa      bool
	answered bool // there is a record of the type asked for
}

func (w *walker) mark(off int) {
	if off < 1<<14 {
		w.starts[off>>6] |= 1 << (off & 63)
	}
}

func (w *walker) unmark(off int) {
	if off < 1<<14 {
		w.starts[off>>6] &^= 1 << (off & 63)
	}
}

func (w *walker) marked(off int) bool { return w.starts[off>>6]&(1<<(off&63)) != 0 }

// name checks the name at off, whose bytes there have to end before end, and
// returns the offset after it.
func (w *walker) name(off, end int) (int, error) {
	size := 0
	for start := off; off < end; {
		w.mark(off)
		n := int(w.msg[off])
		switch {
		case n == 0:
			if size+1 > MaxName {
				return 0, errNameLen
			}
			return off + 1, nil
		case n >= 0xC0:
			if off+2 > end {
				return 0, errNameEnd
			}
			to, err := w.pointer(off, start)
			if err != nil {
				return 0, err
			}
			return off + 2, w.tail(to, size)
		case n > MaxLabel:
			return 0, errLabelType
		}
		off += 1 + n
		if size += 1 + n; size >= MaxName {
			return 0, errNameLen
		}
	}
	return 0, errNameEnd
}

// pointer returns where the pointer at off leads, mending it for the OPT that
// was cut out. It has to lead before start, to a name that was checked.
func (w *walker) pointer(off, start int) (int, error) {
	to := int(w.msg[off]&0x3F)<<8 | int(w.msg[off+1])
	if w.cutLen != 0 && to >= w.cutAt {
		if to -= w.cutLen; to < w.cutAt {
			return 0, errPointer // into the OPT
		}
		w.msg[off], w.msg[off+1] = 0xC0|byte(to>>8), byte(to)
	}
	if to >= start || !w.marked(to) {
		return 0, errPointer
	}
	return to, nil
}

// tail checks that a name whose first size bytes were read, and that goes on at
// off in a checked name, is not too long. It ends: checked names have only
// pointers that lead back.
func (w *walker) tail(off, size int) error {
	for hops := 1; ; {
		switch n := int(w.msg[off]); {
		case n == 0:
			if size+1 > MaxName {
				return errNameLen
			}
			return nil
		case n >= 0xC0:
			if hops++; hops > maxPointers {
				return errPointers
			}
			off = n&0x3F<<8 | int(w.msg[off+1])
		default:
			off += 1 + n
			if size += 1 + n; size >= MaxName {
				return errNameLen
			}
		}
	}
}

// record checks the record at off.
func (w *walker) record(off int) (record, error) {
	off, err := w.name(off, len(w.msg))
	if err != nil {
		return record{}, err
	}
	rr, err := readFixed(w.msg, off)
	if err != nil {
		return record{}, err
	}
	return rr, w.data(rr)
}

// Errors about RDATA.
var (
	errAddrLen  = errors.New("an address of the wrong length")
	errDataLen  = errors.New("data is shorter or longer than its type's")
	errDataName = errors.New("a name in the data runs past its end")
)

// layout is where the names are in a type's RDATA.
type layout struct {
	before  int  // bytes before the first name
	strings int  // then so many character-strings
	names   int  // then so many names
	after   int  // then so many bytes
	more    bool // or more
}

// layoutOf knows the types of RFC 1035, those of RFC 3597 §4 that receivers
// should expect compressed, and newer ones that are never compressed but hold
// names that clients parse. Zero: opaque.
func layoutOf(typ uint16) layout {
	switch typ {
	case TypeNS, TypeMD, TypeMF, TypeCNAME, TypeMB, TypeMG, TypeMR, TypePTR, TypeNSAPPTR, TypeDNAME:
		return layout{names: 1}
	case TypeSOA:
		return layout{names: 2, after: 20}
	case TypeMINFO, TypeRP, TypeTALINK:
		return layout{names: 2}
	case TypeMX, TypeAFSDB, TypeRT, TypeKX, TypeLP:
		return layout{before: 2, names: 1}
	case TypePX:
		return layout{before: 2, names: 2}
	case TypeSRV:
		return layout{before: 6, names: 1}
	case TypeNAPTR:
		return layout{before: 4, strings: 3, names: 1}
	case TypeSIG, TypeRRSIG:
		return layout{before: 18, names: 1, more: true}
	case TypeNXT, TypeNSEC:
		return layout{names: 1, more: true}
	case TypeSVCB, TypeHTTPS:
		return layout{before: 2, names: 1, more: true}
	}
	return layout{}
}

// data checks a record's RDATA as far as its type is known: a client that
// trusts RDLENGTH, or the lack of it, must not read past it.
func (w *walker) data(rr record) error {
	switch {
	case rr.typ == TypeA && rr.class == ClassIN:
		if rr.end-rr.data != 4 {
			return errAddrLen
		}
		return nil
	case rr.typ == TypeAAAA && rr.class == ClassIN:
		if rr.end-rr.data != 16 {
			return errAddrLen
		}
		return nil
	}
	l := layoutOf(rr.typ)
	if l.names == 0 {
		return nil
	}
	off := rr.data + l.before
	for range l.strings {
		if off >= rr.end {
			return errDataLen
		}
		off += 1 + int(w.msg[off])
	}
	for range l.names {
		var err error
		if off, err = w.name(off, rr.end); err != nil {
			if err == errNameEnd {
				return errDataName
			}
			return err
		}
	}
	if left := rr.end - off; left < l.after || left > l.after && !l.more {
		return errDataLen
	}
	return nil
}
