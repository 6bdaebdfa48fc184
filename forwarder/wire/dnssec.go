// SPDX-License-Identifier: Apache-2.0

package wire

// EDEUnsupportedIterations is the Extended DNS Error "unsupported NSEC3 iterations value" (RFC 9276
// §3.2).
const EDEUnsupportedIterations uint16 = 27

// HasCD reports whether a message has CD set (RFC 4035 §3.2.2).
func HasCD(msg []byte) bool { return msg[3]&bitCD != 0 }

// IsTruncated reports whether a message has TC set.
func IsTruncated(msg []byte) bool { return msg[2]&bitTC != 0 }

// SetAD sets or clears AD in a reply (RFC 4035 §3.2.3).
func SetAD(reply []byte, ad bool) {
	reply[3] &^= bitAD
	if ad {
		reply[3] |= bitAD
	}
}

// SetRcode sets the rcode in a header, which is below 16.
func SetRcode(msg []byte, rcode uint16) { msg[3] = msg[3]&^0x0F | byte(rcode) }

// AppendValidating appends a query of [AppendQuery] with CD and DO set, as a validating forwarder
// sends it (RFC 6840 §5.9). It reports false if the query has no OPT, or records other than that.
func AppendValidating(dst, query []byte) ([]byte, bool) {
	end := ownOPT(query)
	if end == 0 {
		return dst, false
	}
	start := len(dst)
	dst = append(dst, query...)
	dst[start+3] |= bitCD
	dst[start+end+7] |= bitDO
	return dst, true
}

// AppendValidated appends the header and the question of a reply to q that was validated, with
// QR, RD, RA and AD set and no records.
func AppendValidated(dst []byte, q *Query, rcode uint16) []byte {
	dst = append(dst, 0, 0, bitQR|bitRD, bitRA|bitAD|byte(rcode), 0, 1, 0, 0, 0, 0, 0, 0)
	return append(dst, q.Msg[HeaderLen:q.QEnd]...)
}

// AppendOPT appends an OPT record without options to a message without additional records.
func AppendOPT(msg []byte, do bool) []byte {
	msg[11] = 1
	return appendOPT(msg, 0, do, 0)
}

// AppendLookup appends a query as [AppendQuery] does, with CD and DO set, for a question of
// Sotto's own. name is in wire form.
func AppendLookup(dst, name []byte, typ uint16) []byte {
	msg := append(make([]byte, HeaderLen, HeaderLen+len(name)+4), name...)
	msg = append(msg, byte(typ>>8), byte(typ), 0, byte(ClassIN))
	return AppendQuery(dst, &Query{Msg: msg, QEnd: len(msg), CD: true, DO: true})
}
