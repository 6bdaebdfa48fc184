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
	if len(reply) < HeaderLen || binary.BigEndian.Uint16(reply[10:]) == 0 {
		return 0, false // no additional section, so no OPT
	}
	off := HeaderLen
	for n := binary.BigEndian.Uint16(reply[4:]); n > 0; n-- {
		if off = nameEnd(reply, off) + 4; off > len(reply) { // type and class
			return 0, false
		}
	}
	n := int(binary.BigEndian.Uint16(reply[6:])) + int(binary.BigEndian.Uint16(reply[8:])) + int(binary.BigEndian.Uint16(reply[10:]))
	for ; n > 0; n-- {
		rr, err := readFixed(reply, nameEnd(reply, off))
		if err != nil {
			return 0, false
		}
		if rr.typ == TypeOPT {
			return readKeepalive(reply[rr.data:rr.end])
		}
		off = rr.end
	}
	return 0, false
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
