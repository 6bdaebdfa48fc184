// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"strconv"
)

var rcodeNames = [...]string{
	"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
	"YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE", "DSOTYPENI",
}

// RcodeName is a response code's mnemonic (the IANA registry's), or RCODE123 for
// one that has none here.
func RcodeName(rcode uint16) string {
	if int(rcode) < len(rcodeNames) {
		return rcodeNames[rcode]
	}
	switch rcode {
	case RcodeBadVers:
		return "BADVERS"
	case RcodeBadCookie:
		return "BADCOOKIE"
	}
	return "RCODE" + strconv.Itoa(int(rcode))
}

// Rcode returns the response code of a reply that has at least a header, OPT's
// eight bits included (RFC 6891 §6.1.3). They are looked for only where there is
// no answer: with one they mean nothing. Of a message that cannot be walked it
// is the header's part: refusing such is left to [ParseReply].
func Rcode(msg []byte) uint16 {
	rcode := uint16(msg[3] & 0x0F)
	if binary.BigEndian.Uint16(msg[6:]) != 0 {
		return rcode
	}
	off := HeaderLen
	if q := questionOf(msg); q != nil {
		off += len(q)
	}
	for range int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:])) {
		rr, err := skipRecord(msg, off)
		if err != nil {
			break
		}
		if rr.typ == TypeOPT {
			return rcode | uint16(msg[rr.ttl])<<4
		}
		off = rr.end
	}
	return rcode
}
