// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// AppendError appends a reply of our own to q: header, question (if it could be
// read) and, if q had one, OPT with the EDEs. It is never longer than
// [MaxErrorLen], so it fits every client over UDP; EDE texts, then EDEs, are
// left out where they would make it so.
//
// With [RcodeSuccess] it is NODATA, without SOA: we own no zone that one could
// come from, and without one nobody caches it (RFC 2308 §2.2 and §5), which is
// right for an answer that is our policy and not the name's owner's, such as
// that of resolver.arpa (RFC 9462 §6.4).
//
// With [RcodeNotAuth] to a signed query it ends in the TSIG record that says
// BADKEY (RFC 8945 §5.2.1): what a client that signs can make sense of.
func AppendError(dst []byte, q *Query, rcode uint16, ede ...EDE) []byte {
	start := len(dst)
	dst = appendHeader(dst, q, rcode)
	if q.QEnd > HeaderLen {
		dst[start+5] = 1
		dst = append(dst, q.Msg[HeaderLen:q.QEnd]...)
	}
	if q.EDNS {
		dst[start+11] = 1
		d := fit(MaxErrorLen-(len(dst)-start)-optLen, ede, nil)
		dst = appendOPT(dst, rcode, q.DO, edeSize(d, ede))
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

// flags2 and flags3 are the header bytes of a reply to q. AA and Z stay clear:
// we are no authority (RFC 1035 §4.1.1). Only for QUERY it is known what the
// flags mean; UPDATE, for one, has none of them (RFC 2136 §2.2).
func flags2(q *Query) byte {
	b := byte(bitQR) | q.Opcode<<opcodeShift
	if q.RD && q.Opcode == OpcodeQuery {
		b |= bitRD
	}
	return b
}

func flags3(q *Query, rcode uint16) byte {
	if rcode > 0x0F && !q.EDNS {
		// Its upper bits have no place, and the lower four alone would mean
		// something else: BADVERS would be NOERROR.
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

// AppendReply appends r, made fit for the client that sent q: its ID, its
// question byte for byte (so that its spelling comes back, which 0x20 clients
// check), RD and CD as sent, RA set, AA clear, AD only if it is true and the
// client showed that it knows AD (RFC 6840 §5.8), TTLs counted down by age
// seconds (those of a stale reply become [StaleTTL], whatever they were), and an
// OPT of our own only if q had one.
//
// A limit above 0 is that of UDP (see [Query.UDPLimit]; below 512 it counts as
// 512): to what does not fit, EDE texts are lost first, then EDEs, and at last
// the records: header, question and OPT with TC=1, so that the client asks
// again over TCP. Limit 0 is TCP: 65,535.
//
// The question of r has to be q's (see [SameQuestion]; the caller checks it once,
// when the reply arrives). If not even the length is right, SERVFAIL is
// appended: no client gets another's answer.
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
		room -= optLen
	}
	if room < 0 {
		if !tcp || r.Rcode > 0x0F {
			return appendTruncated(dst, q, r.Rcode)
		}
		// A reply of 65,525 bytes or more, whose author left OPT out too:
		// over TCP there is no way to ask again, so the records win.
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
	d := fit(room, ede, r.EDE)
	dst = appendOPT(dst, r.Rcode, q.DO, edeSize(d, ede)+edeSize(d, r.EDE))
	dst = appendEDE(dst, d, ede)
	return appendEDE(dst, d, r.EDE)
}

// countDown takes age seconds off every TTL of msg.
func countDown(msg []byte, ttls []uint16, age uint32) {
	for _, off := range ttls {
		field := msg[off : off+4]
		ttl := binary.BigEndian.Uint32(field)
		binary.BigEndian.PutUint32(field, ttl-min(ttl, age))
	}
}

// setTTLs gives every record of msg one TTL. In a stale reply some records may
// not have expired; they get no more than the others do, for they will be fetched
// together.
func setTTLs(msg []byte, ttls []uint16, ttl uint32) {
	for _, off := range ttls {
		binary.BigEndian.PutUint32(msg[off:off+4], ttl)
	}
}

// appendTruncated appends the reply that says: ask again over TCP. It has no
// records, rather than some (RFC 2181 §9 lets a client use neither).
func appendTruncated(dst []byte, q *Query, rcode uint16) []byte {
	start := len(dst)
	dst = AppendError(dst, q, rcode)
	dst[start+2] |= bitTC
	return dst
}
