// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"encoding/binary"
	"time"
)

// Limits of bpf/hits.h.
const (
	// MaxName is the maximum length of a name in wire form.
	MaxName = 127
	// MaxRecords is the maximum number of records of an answer.
	MaxRecords = 16
	// MaxLen is the maximum length of an answer after its question.
	MaxLen = 1232

	shortLen  = 512
	isLong    = 1 << 31
	headerLen = 12
)

// Answer is an answer for the kernel to repeat.
type Answer struct {
	Class  uint32 // of the slots that it is for; not 0
	DO, CD bool   // of the queries that it is for

	// Msg is a complete message without OPT. Its question ends at QEnd and has a lower-case
	// name. TTLs are the offsets of the TTLs of all its records; they are those of the time
	// Stored.
	Msg  []byte
	QEnd int
	TTLs []uint16
	AD   bool // it was validated

	// Times of the clock that [Now] returns. From Refresh on, queries are left to user space.
	Stored, Refresh, Expires time.Duration

	// Tag is passed to the function that reports uses.
	Tag []byte
}

// key returns the key of a, and reports whether a can be stored. The part of its message before
// QEnd must have been checked.
func (a *Answer) key() (k hitsHitKey, ok bool) {
	name := a.QEnd - headerLen - 4
	if a.Class == 0 || name < 1 || name > MaxName || len(a.TTLs) > MaxRecords || len(a.Msg)-a.QEnd > MaxLen ||
		len(a.Msg) <= a.QEnd || a.Stored < 0 || a.Stored > a.Refresh || a.Refresh > a.Expires {
		return k, false
	}
	for _, at := range a.TTLs {
		if int(at) < a.QEnd || int(at)+4 > len(a.Msg) {
			return k, false
		}
	}
	k.Class = a.Class
	q := a.Msg[headerLen+name:]
	k.Qtype, k.Qclass = binary.NativeEndian.Uint16(q), binary.NativeEndian.Uint16(q[2:])
	if a.DO {
		k.Flags |= 1
	}
	if a.CD {
		k.Flags |= 2
	}
	copy(k.Name[:], a.Msg[headerLen:headerLen+name])
	return k, true
}

// encode writes a to the memory of an entry, which no program reads.
func (a *Answer) encode(h *hitsHit, rest []byte, k *hitsHitKey, generation uint64) {
	*h = hitsHit{
		Key: *k, Generation: generation,
		Stored: uint64(a.Stored), Refresh: uint64(a.Refresh), Expires: uint64(a.Expires),
		Len: uint16(len(a.Msg) - a.QEnd), Rcode: a.Msg[3] & 0x0F, TtlCount: uint16(len(a.TTLs)),
	}
	for i := range h.Records {
		h.Records[i] = binary.NativeEndian.Uint16(a.Msg[6+2*i:])
	}
	if a.AD {
		h.Ad = 1
	}
	for i, at := range a.TTLs {
		h.Ttls[i] = at - uint16(a.QEnd)
	}
	clear(rest[copy(rest, a.Msg[a.QEnd:]):])
}

// isLong reports whether a needs a long entry.
func (a *Answer) isLong() bool { return len(a.Msg)-a.QEnd > shortLen }
