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

// RcodeName returns a response code's mnemonic (from the IANA registry), or the form
// RCODE123 if it is not in the table.
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

// IsAnswer reports whether a response code answers the question. Any other means that the
// server could not or would not answer. YXDOMAIN is the answer of a DNAME whose target is
// too long (RFC 6672 §2.2).
func IsAnswer(rcode uint16) bool {
	return rcode == RcodeSuccess || rcode == RcodeNXDomain || rcode == RcodeYXDomain
}

// HasOPT reports whether a reply that has at least a header, and no answers, has an OPT
// record. It reports false for a malformed message.
func HasOPT(msg []byte) bool { return optOf(msg) != 0 }

// optOf returns the offset of the TTL of a message's OPT record, or 0 if there is none
// before the first malformed record. The message has no answers.
func optOf(msg []byte) int {
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
			return rr.ttl
		}
		off = rr.end
	}
	return 0
}

// Rcode returns the response code of a reply that has at least a header, including the
// eight bits in OPT (RFC 6891 §6.1.3). OPT is read only if there is no answer; with an
// answer those bits are not used. For a malformed message it returns the header's part;
// [ParseReply] refuses such messages.
func Rcode(msg []byte) uint16 {
	rcode := uint16(msg[3] & 0x0F)
	if binary.BigEndian.Uint16(msg[6:]) != 0 {
		return rcode
	}
	if ttl := optOf(msg); ttl != 0 {
		return rcode | uint16(msg[ttl])<<4
	}
	return rcode
}
