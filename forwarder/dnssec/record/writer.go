// SPDX-License-Identifier: Apache-2.0

package record

import (
	"maps"

	"sotto/forwarder/wire"
)

// Writer writes a message from records of another one. Names are compressed where RFC 1035 allows
// it.
type Writer struct {
	out []byte
	at  map[string]int // offsets of names, in the spelling in which they were written
}

// maxPointer is the largest offset that a pointer can have, and one.
const maxPointer = 1 << 14

// NewWriter returns a writer. head is the header and the question of the message. Its counts are
// not changed by [Writer.Copy].
func NewWriter(head []byte) *Writer {
	w := &Writer{out: make([]byte, 0, 512), at: make(map[string]int)}
	w.out = append(w.out, head[:wire.HeaderLen]...)
	w.name(head, wire.HeaderLen)
	w.out = append(w.out, head[len(w.out):]...)
	return w
}

// Bytes returns the message.
func (w *Writer) Bytes() []byte { return w.out }

// Copy writes a record of m. It reports false, and writes nothing, if a name in it is malformed.
func (w *Writer) Copy(m *Message, rr *RR) bool {
	start := len(w.out)
	if _, ok := w.name(m.Raw, rr.At); !ok {
		return false
	}
	w.out = append(w.out, m.Raw[rr.TTL-4:rr.Data]...)
	data := len(w.out)
	if !w.data(m.Raw, rr) {
		w.out = w.out[:start]
		maps.DeleteFunc(w.at, func(_ string, at int) bool { return at >= start })
		return false
	}
	size := len(w.out) - data
	w.out[data-2], w.out[data-1] = byte(size>>8), byte(size)
	return true
}

// compressible returns where names are in the RDATA of the types of RFC 1035.
func compressible(typ uint16) (before, names int) {
	switch typ {
	case wire.TypeNS, wire.TypeCNAME, wire.TypePTR, wire.TypeSOA, wire.TypeMX, wire.TypeMB, wire.TypeMG, wire.TypeMR, wire.TypeMINFO:
		before, _, names = namesIn(typ)
	}
	return before, names
}

// data writes the RDATA of a record.
func (w *Writer) data(msg []byte, rr *RR) bool {
	before, names := compressible(rr.Type)
	off := rr.Data + before
	if names > 0 {
		w.out = append(w.out, msg[rr.Data:off]...)
		for range names {
			var ok bool
			if off, ok = w.name(msg, off); !ok {
				return false
			}
		}
		w.out = append(w.out, msg[off:rr.End]...)
		return true
	}
	return w.plain(msg, rr)
}

// AppendRecord appends a record of m, whose names are not compressed, and returns the offset of its
// TTL from the start of dst.
func AppendRecord(dst []byte, m *Message, rr *RR) (_ []byte, ttl int) {
	w := Writer{out: dst}
	w.out, _, _ = appendName(w.out, m.Raw, rr.At, false)
	w.out = append(w.out, m.Raw[rr.TTL-4:rr.Data]...)
	data := len(w.out)
	w.plain(m.Raw, rr)
	size := len(w.out) - data
	w.out[data-2], w.out[data-1] = byte(size>>8), byte(size)
	return w.out, data - fixedLen + 4
}

// plain writes RDATA whose names are not compressed. Some servers compress them all the same.
func (w *Writer) plain(msg []byte, rr *RR) bool {
	before, strings, names := namesIn(rr.Type)
	if rr.Type == wire.TypeRRSIG {
		before, names = rrsigFixed, 1
	}
	off := rr.Data + before
	for range strings {
		if off >= rr.End {
			return false
		}
		off += 1 + int(msg[off])
	}
	if off > rr.End {
		return false
	}
	w.out = append(w.out, msg[rr.Data:off]...)
	for range names {
		var ok bool
		if w.out, off, ok = appendName(w.out, msg, off, false); !ok || off > rr.End {
			return false
		}
	}
	w.out = append(w.out, msg[off:rr.End]...)
	return true
}

// name writes the name at off of msg, and returns the offset after it there.
func (w *Writer) name(msg []byte, off int) (end int, ok bool) {
	var room [wire.MaxName]byte
	name, end, ok := appendName(room[:0], msg, off, false)
	if !ok {
		return 0, false
	}
	for rest := name; rest[0] != 0; rest = rest[1+int(rest[0]):] {
		if to, ok := w.at[string(rest)]; ok {
			w.out = append(w.out, 0xC0|byte(to>>8), byte(to))
			return end, true
		}
		if len(w.out) < maxPointer {
			w.at[string(rest)] = len(w.out)
		}
		w.out = append(w.out, rest[:1+int(rest[0])]...)
	}
	w.out = append(w.out, 0)
	return end, true
}
