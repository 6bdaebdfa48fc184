// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// tsig has offsets in a query's TSIG record (RFC 8945 §4.2).
type tsig struct {
	owner, data int // of the key's name and of the RDATA
	fixed       int // of the time signed, which follows the algorithm's name
	id          int // of the original ID, which follows the MAC
}

const (
	tsigTime = 8 // time signed and fudge
	tsigTail = 6 // original ID, error, length of other data

	tsigBadKey = 17 // BADKEY: unknown key (RFC 8945 §3)
)

// readTSIG finds the parts of the TSIG record at owner. It reports false if the record is
// malformed, which is answered with FORMERR (RFC 8945 §5.2).
func readTSIG(msg []byte, owner int, rr record) (t tsig, ok bool) {
	data := msg[:rr.end]
	fixed, err := plainName(data, rr.data) // never compressed
	if err != nil || fixed+tsigTime+2 > rr.end || rr.class != ClassANY {
		return t, false
	}
	id := fixed + tsigTime + 2 + int(binary.BigEndian.Uint16(msg[fixed+tsigTime:]))
	if id+tsigTail > rr.end || id+tsigTail+int(binary.BigEndian.Uint16(msg[id+4:])) != rr.end {
		return t, false
	}
	return tsig{owner: owner, data: rr.data, fixed: fixed, id: id}, true
}

// appendBadKey appends a TSIG record with the error BADKEY to the reply that starts at
// start. The record has no MAC, since the key is unknown (RFC 8945 §5.3.2). It is omitted
// if the reply would be longer than [MaxErrorLen], which needs an unusually long key name.
func appendBadKey(dst []byte, start int, q *Query) []byte {
	end := len(dst)
	dst = appendPlain(dst, q.Msg, q.tsig.owner)
	alg, fixed := q.Msg[q.tsig.data:q.tsig.fixed], q.Msg[q.tsig.fixed:][:tsigTime]
	size := len(alg) + tsigTime + 2 + tsigTail
	dst = append(dst, 0, byte(TypeTSIG), byte(ClassANY>>8), byte(ClassANY&0xFF), 0, 0, 0, 0, byte(size>>8), byte(size))
	dst = append(append(dst, alg...), fixed...)
	dst = append(dst, 0, 0, q.Msg[q.tsig.id], q.Msg[q.tsig.id+1], 0, tsigBadKey, 0, 0)
	if len(dst)-start > MaxErrorLen {
		return dst[:end]
	}
	dst[start+11]++
	return dst
}
