// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
)

// CookieIn reports whether another server's reply to q has a COOKIE option, and whether that is
// valid for the client: with the client's part, and a server cookie.
func (q *Query) CookieIn(reply []byte) (found, valid bool) {
	o, ok := outlineOf(reply)
	if !ok || o.opt == 0 {
		return false, false
	}
	for data := reply[o.opt+optLen : o.optEnd]; len(data) > 0; {
		code, value, rest, ok := nextOption(data)
		if !ok {
			return false, false
		}
		if code == optCookie {
			return true, len(value) >= clientCookieLen+minServerCookieLen && bytes.HasPrefix(value, q.cookie[:clientCookieLen])
		}
		data = rest
	}
	return false, false
}

// RejectsEDNS reports whether a reply means that the server does not support EDNS (RFC 6891 §7).
func RejectsEDNS(reply []byte) bool {
	rcode := Rcode(reply)
	return (rcode == RcodeFormErr || rcode == RcodeNotImp) && !HasOPT(reply)
}

// AppendWithCookie appends another server's reply to q, with the COOKIE option of
// [Query.SetCookie] in addition to the options of its OPT record. A reply without OPT gets one,
// with DO clear, since that server knows no DNSSEC (RFC 3225 §3). If the reply does not fit into
// the limit, it has no records and TC=1; a limit of 0 means TCP. A reply is appended unchanged if
// it is malformed, signed, or would be too long for TCP.
func AppendWithCookie(dst, reply []byte, q *Query, limit int) []byte {
	o, ok := outlineOf(reply)
	if !ok {
		return append(dst, reply...)
	}
	body, opt, others := reply[:o.end], appendOPT(nil, 0, false, 0), o.additional
	switch {
	case o.opt == 0:
	case o.optEnd == o.end:
		body, opt, others = reply[:o.opt], reply[o.opt:o.optEnd], others-1
	default: // records follow, whose names may be pointed to
		r, err := ParseReply(bytes.Clone(reply))
		if err != nil {
			return append(dst, reply...)
		}
		body, opt, others = r.Msg, reply[o.opt:o.optEnd], others-1
	}
	size := len(body) + len(opt) + q.cookieSize()
	fits := limit <= 0 || size <= max(limit, MinUDPSize)
	if !fits {
		body, opt, others = reply[:o.qend], opt[:optLen], 0
	} else if size > MaxMessage {
		return append(dst, reply...)
	}
	start := len(dst)
	dst = append(append(dst, body...), opt...)
	msg := dst[start:]
	binary.BigEndian.PutUint16(msg[len(body)+optLen-2:], uint16(len(opt)-optLen+q.cookieSize()))
	binary.BigEndian.PutUint16(msg[10:], uint16(others+1))
	if !fits {
		binary.BigEndian.PutUint32(msg[6:], 0) // answers and authority
		msg[2] |= bitTC
	}
	return appendCookie(dst, q)
}

// replyOutline has offsets in a message, and the number of its additional records.
type replyOutline struct {
	qend, end   int // after the question and the last record
	opt, optEnd int // of the OPT record; 0 if there is none
	additional  int
}

// outlineOf finds the OPT record of a reply. It reports false if the reply is malformed, has
// another version of EDNS, or is signed by TSIG or SIG(0).
func outlineOf(msg []byte) (o replyOutline, ok bool) {
	if len(msg) < HeaderLen {
		return o, false
	}
	o.qend = HeaderLen
	switch q := questionOf(msg); {
	case q != nil:
		o.qend += len(q)
	case binary.BigEndian.Uint16(msg[4:]) != 0: // an error may have no question
		return o, false
	}
	an, ns, ar := counts(msg)
	o.end, o.additional = o.qend, ar
	for i := range an + ns + ar {
		rr, err := skipRecord(msg, o.end)
		if err != nil || rr.typ == TypeTSIG || rr.typ == TypeSIG {
			return o, false
		}
		if rr.typ == TypeOPT {
			if o.opt != 0 || i < an+ns || msg[o.end] != 0 || msg[rr.ttl+1] != 0 {
				return o, false
			}
			o.opt, o.optEnd = o.end, rr.end
		}
		o.end = rr.end
	}
	return o, true
}
