// SPDX-License-Identifier: Apache-2.0

package wire

// walker walks one reply. It records where names start, so that it can check later
// pointers.
type walker struct {
	msg   []byte
	qtype uint16

	// starts has a bit for every offset of a label, a pointer or the end of a checked
	// name: the valid targets of a pointer. That is stricter than "backwards": a pointer
	// into the header, a TTL or opaque data could become another name when AppendReply
	// patches those. A pointer has fourteen bits.
	starts [1 << 14 / 64]uint64

	// An OPT of cutLen bytes was removed at cutAt. Pointers to offsets after it have to
	// be corrected.
	cutAt, cutLen int

	ttl      uint32 // lowest TTL so far
	minimum  uint32 // lowest MINIMUM of an SOA in the authority section
	soa      bool
	answered bool // there is a record of the requested type
	full     int  // names of several labels that do not end with a pointer
}

func (w *walker) mark(off int) {
	if off < 1<<14 {
		w.starts[off>>6] |= 1 << (off & 63)
	}
}

func (w *walker) marked(off int) bool { return w.starts[off>>6]&(1<<(off&63)) != 0 }

// name checks the name at off, which has to end before end, and returns the offset after
// it.
func (w *walker) name(off, end int) (int, error) {
	size := 0
	for start := off; off < end; {
		w.mark(off)
		n := int(w.msg[off])
		switch {
		case n == 0:
			if size > 1+int(w.msg[start]) {
				w.full++
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

// pointer returns the target of the pointer at off, and corrects it for a removed OPT. The
// target has to be a checked name before start.
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

// tail checks that a name of which size bytes were read, and which continues at off in a
// checked name, is not too long. It terminates because pointers of checked names only
// refer to earlier offsets.
func (w *walker) tail(off, size int) error {
	for hops := 1; ; {
		switch n := int(w.msg[off]); {
		case n == 0:
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
