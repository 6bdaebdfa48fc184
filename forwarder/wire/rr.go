// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"iter"
)

// RR is one record of a message. Its offsets refer to the message.
type RR struct {
	Section     int // [SectionAnswer], …
	Type, Class uint16
	TTL         uint32
	Owner       int // offset of the owner's name, which may be compressed
	Data, End   int // offsets of the RDATA and of what follows it
}

// Records returns the records of a message in order, up to the first one that is malformed. Like
// [EachRecord] it checks only what it needs to find the next record; the names in the RDATA are
// not checked. A message that [ParseReply] accepts is walked to its end.
func Records(msg []byte) iter.Seq[RR] {
	return func(yield func(RR) bool) {
		if len(msg) < HeaderLen {
			return
		}
		off := HeaderLen
		for range binary.BigEndian.Uint16(msg[4:]) {
			end, err := skipName(msg, off)
			if off = end + 4; err != nil || off > len(msg) {
				return
			}
		}
		for section := range 3 {
			for range binary.BigEndian.Uint16(msg[6+2*section:]) {
				rr, err := skipRecord(msg, off)
				if err != nil || !yield(RR{section, rr.typ, rr.class, binary.BigEndian.Uint32(msg[rr.ttl:]), off, rr.data, rr.end}) {
					return
				}
				off = rr.end
			}
		}
	}
}

// AppendExpanded appends the name at off of a message without compression. It reports false, and
// returns dst unchanged, if the name is malformed.
func AppendExpanded(dst, msg []byte, off int) ([]byte, bool) {
	if _, err := skipName(msg, off); err != nil {
		return dst, false
	}
	for msg[off] != 0 {
		n := int(msg[off])
		if n >= 0xC0 {
			off = n&0x3F<<8 | int(msg[off+1])
			continue
		}
		dst = append(dst, msg[off:off+1+n]...)
		off += 1 + n
	}
	return append(dst, 0), true
}

// QuestionOf returns the name (as in [Query].Name), the type and the class of a message's first
// question. The name is empty if there is none, or if it is malformed. It aliases the message.
func QuestionOf(msg []byte) (name []byte, typ, class uint16) {
	q := questionOf(msg)
	if q == nil {
		return nil, 0, 0
	}
	n := len(q) - 4
	return q[:n], binary.BigEndian.Uint16(q[n:]), binary.BigEndian.Uint16(q[n+2:])
}
