// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// AppendError appends a reply to q without records: header, question (if it could be
// parsed) and, if q had one, OPT with the EDEs. It is never longer than [MaxErrorLen],
// so it fits every client over UDP; if necessary EDE texts are left out, then EDEs.
//
// With [RcodeSuccess] it is NODATA without an SOA. Sotto owns no zone to take one from,
// and without one the answer is not cached (RFC 2308 §2.2 and §5), which is right for
// an answer by local policy, such as that for resolver.arpa (RFC 9462 §6.4).
//
// With [RcodeNotAuth] and a signed query it ends with a TSIG record with the error
// BADKEY (RFC 8945 §5.2.1), which clients that sign understand.
func AppendError(dst []byte, q *Query, rcode uint16, ede ...EDE) []byte {
	start := len(dst)
	dst = appendHeader(dst, q, rcode)
	if q.QEnd > HeaderLen {
		dst[start+5] = 1
		dst = append(dst, q.Msg[HeaderLen:q.QEnd]...)
	}
	if q.EDNS {
		dst[start+11] = 1
		d := fitEDEs(MaxErrorLen-(len(dst)-start)-optLen-q.cookieSize(), ede, nil)
		dst = appendOPT(dst, rcode, q.DO, q.cookieSize()+edeSize(d, ede))
		dst = appendCookie(dst, q)
		dst = appendEDE(dst, d, ede)
	}
	if rcode == RcodeNotAuth && q.Signed {
		dst = appendBadKey(dst, start, q)
	}
	return dst
}

// appendHeader appends the header of a reply to q with all counts zero.
func appendHeader(dst []byte, q *Query, rcode uint16) []byte {
	return append(dst, byte(q.ID>>8), byte(q.ID), flags2(q), flags3(q, rcode), 0, 0, 0, 0, 0, 0, 0, 0)
}

// flags2 and flags3 return the header's third and fourth byte in a reply to q. AA and Z
// stay clear, since Sotto is not authoritative (RFC 1035 §4.1.1). The flags are defined
// only for QUERY; UPDATE, for example, has none of them (RFC 2136 §2.2).
func flags2(q *Query) byte {
	b := byte(bitQR) | q.Opcode<<opcodeShift
	if q.RD && q.Opcode == OpcodeQuery {
		b |= bitRD
	}
	return b
}

func flags3(q *Query, rcode uint16) byte {
	if rcode > 0x0F && !q.EDNS {
		// Without OPT the upper bits cannot be sent, and the lower four alone are
		// another code: BADVERS would become NOERROR.
		rcode = RcodeServFail
	}
	b := byte(rcode & 0x0F)
	if q.Opcode != OpcodeQuery {
		return b
	}
	b |= bitRA
	if q.CD {
		b |= bitCD
	}
	return b
}

// AppendReply appends r for the client that sent q, with:
//
//   - the client's ID, and its question byte for byte (0x20 clients check the
//     spelling),
//   - RD and CD as sent, RA set, AA clear, and AD only if r has it and the client
//     understands it (RFC 6840 §5.8),
//   - TTLs reduced by age seconds; those of a stale reply become [StaleTTL],
//   - an OPT of its own only if q had one, with a cookie if [Query.SetCookie] was called.
//
// A limit above 0 is the maximum length over UDP (see [Query.UDPLimit]); below 512 it
// means 512. If the reply does not fit, EDE texts are left out, then EDEs, then the
// records: the reply then has header, question and OPT with TC=1, so that the client
// retries over TCP. A limit of 0 means TCP, with 65,535 bytes.
//
// The question of r has to be q's (see [SameQuestion]; the caller checks that once when
// the reply arrives). If their lengths differ, SERVFAIL is appended, so that no client
// gets the answer to another question.
func AppendReply(dst []byte, q *Query, r *Reply, age uint32, limit int, ede ...EDE) []byte {
	if q.QEnd != r.QEnd || q.QEnd <= HeaderLen {
		return AppendError(dst, q, RcodeServFail, ede...)
	}
	tcp := limit <= 0
	if tcp {
		limit = MaxMessage
	}
	room := max(limit, MinUDPSize) - len(r.Msg)
	opt := q.EDNS
	if opt {
		room -= optLen + q.cookieSize()
	}
	if room < 0 {
		if !tcp || r.Rcode > 0x0F {
			return appendTruncated(dst, q, r.Rcode)
		}
		// A reply of 65,525 bytes or more, which had no OPT either. Over TCP the
		// client cannot retry, so the records have priority.
		opt = false
	}

	start := len(dst)
	dst = append(dst, r.Msg...)
	msg := dst[start:]
	copy(msg[HeaderLen:r.QEnd], q.Msg[HeaderLen:q.QEnd])
	msg[0], msg[1] = byte(q.ID>>8), byte(q.ID)
	msg[2], msg[3] = flags2(q), flags3(q, r.Rcode)
	if r.TC {
		msg[2] |= bitTC
	}
	if r.AD && (q.AD || q.DO) {
		msg[3] |= bitAD
	}
	switch {
	case r.Stale:
		setTTLs(msg, r.TTLs, StaleTTL)
	case age > 0:
		countDown(msg, r.TTLs, age)
	}
	if !opt {
		return dst
	}
	n := binary.BigEndian.Uint16(msg[10:])
	binary.BigEndian.PutUint16(msg[10:], n+1)
	d := fitEDEs(room, ede, r.EDE)
	dst = appendOPT(dst, r.Rcode, q.DO, q.cookieSize()+edeSize(d, ede)+edeSize(d, r.EDE))
	dst = appendCookie(dst, q)
	dst = appendEDE(dst, d, ede)
	return appendEDE(dst, d, r.EDE)
}

// countDown subtracts age from every TTL of msg.
func countDown(msg []byte, ttls []uint16, age uint32) {
	for _, off := range ttls {
		field := msg[off : off+4]
		ttl := binary.BigEndian.Uint32(field)
		binary.BigEndian.PutUint32(field, ttl-min(ttl, age))
	}
}

// setTTLs sets the TTL of every record of msg. In a stale reply some records may not
// have expired. They get the same TTL as the others, since all are fetched together.
func setTTLs(msg []byte, ttls []uint16, ttl uint32) {
	for _, off := range ttls {
		binary.BigEndian.PutUint32(msg[off:off+4], ttl)
	}
}

// appendTruncated appends a reply with TC=1, so that the client retries over TCP. It
// has no records: a client should ignore those of a truncated reply (RFC 2181 §9).
func appendTruncated(dst []byte, q *Query, rcode uint16) []byte {
	start := len(dst)
	dst = AppendError(dst, q, rcode)
	dst[start+2] |= bitTC
	return dst
}
