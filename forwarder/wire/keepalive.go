// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"time"
)

// keepaliveUnit is the unit of TIMEOUT (RFC 7828 §3.1).
const keepaliveUnit = 100 * time.Millisecond

// Keepalive returns the timeout of the edns-tcp-keepalive option (RFC 7828) in a reply
// that arrived over a stream: how long the server keeps an idle connection open. 0 means
// that the server wants it closed. It reports false if there is no such option, or an
// invalid one. Since it is called for every reply, it is fast and checks only what it
// needs. [ParseReply] checks the rest, and removes OPT.
func Keepalive(reply []byte) (timeout time.Duration, ok bool) {
	return readKeepalive(optData(reply))
}

// RemoveKeepalive removes the edns-tcp-keepalive option from a query that [AppendQuery] wrote,
// for protocols that forbid it (RFC 9250 §5.5.2) or have no use for it. It becomes padding, so
// that the size of the query stays the same.
func RemoveKeepalive(query []byte) {
	data := optData(query)
	if len(data) < 2*optionLen || [4]byte(data) != [4]byte{0, optKeepalive} || binary.BigEndian.Uint16(data[optionLen:]) != optPadding {
		return
	}
	binary.BigEndian.PutUint16(data, optPadding)
	binary.BigEndian.PutUint16(data[2:], uint16(len(data)-optionLen))
	clear(data[optionLen:])
}

// optData returns the RDATA of a message's OPT record, or nil.
func optData(msg []byte) []byte {
	if len(msg) < HeaderLen || binary.BigEndian.Uint16(msg[10:]) == 0 {
		return nil // no additional section, so no OPT
	}
	off := HeaderLen
	for n := binary.BigEndian.Uint16(msg[4:]); n > 0; n-- {
		if off = nameEnd(msg, off) + 4; off > len(msg) { // type and class
			return nil
		}
	}
	n := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for ; n > 0; n-- {
		rr, err := readFixed(msg, nameEnd(msg, off))
		if err != nil {
			return nil
		}
		if rr.typ == TypeOPT {
			return msg[rr.data:rr.end]
		}
		off = rr.end
	}
	return nil
}

// nameEnd returns the offset after the name at off, without checking labels or following
// pointers. If the name has no end, it returns the end of the message.
func nameEnd(msg []byte, off int) int {
	for off < len(msg) {
		switch n := int(msg[off]); {
		case n == 0:
			return off + 1
		case n >= 0xC0:
			return off + 2
		default:
			off += 1 + n
		}
	}
	return len(msg)
}

// readKeepalive finds the option in an OPT record's RDATA.
func readKeepalive(data []byte) (timeout time.Duration, ok bool) {
	for len(data) > 0 {
		code, value, rest, ok := nextOption(data)
		if !ok {
			return 0, false
		}
		if code == optKeepalive && len(value) == 2 {
			return time.Duration(binary.BigEndian.Uint16(value)) * keepaliveUnit, true
		}
		data = rest
	}
	return 0, false
}
