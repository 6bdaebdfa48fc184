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
//   - an OPT of its own only if q had one, with a cookie if [Query.SetCookie] was called,
//   - addresses rotated by the client's ID and age if r.Rotate is set.
//
// A limit above 0 is the maximum length over UDP (see [Query.UDPLimit]); below 512 it
// means 512. If the reply does not fit, EDE texts are left out, then EDEs, then RRsets
// that are not required: those of the additional section from the end, and the name
// servers of a positive answer (RFC 2181 §9). If it still does not fit, it has header,
// question and OPT with TC=1, so that the client retries over TCP. A limit of 0 means TCP,
// with 65,535 bytes.
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
	body, ttls := r.Msg, r.TTLs
	if room < 0 {
		end, records := r.required(len(r.Msg) + room)
		switch {
		case records >= 0:
			room += len(r.Msg) - end
			body, ttls = r.Msg[:end], r.TTLs[:records]
		case !tcp || r.Rcode > 0x0F:
			return appendTruncated(dst, q, r.Rcode)
		default:
			// A reply of 65,525 bytes or more, which had no OPT either. Over TCP the
			// client cannot retry, so the records have priority.
			opt = false
		}
	}

	start := len(dst)
	dst = append(dst, body...)
	msg := dst[start:]
	if len(ttls) < len(r.TTLs) {
		setCounts(msg, len(ttls))
	}
	copy(msg[HeaderLen:r.QEnd], q.Msg[HeaderLen:q.QEnd])
	msg[0], msg[1] = byte(q.ID>>8), byte(q.ID)
	msg[2], msg[3] = flags2(q), flags3(q, r.Rcode)
	if r.TC {
		msg[2] |= bitTC
	}
	if r.AD && (q.AD || q.DO) {
		msg[3] |= bitAD
	}
	if r.Rotate {
		rotate(msg, r, uint32(q.ID)+age)
	}
	switch {
	case r.Stale:
		setTTLs(msg, ttls, StaleTTL)
	case age > 0:
		countDown(msg, ttls, age)
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

// maxCompared is the number of records of an additional section that are compared to find
// its RRsets. A longer section is left out as a whole.
const maxCompared = 128

// counts returns the number of records of each section.
func counts(msg []byte) (an, ns, ar int) {
	return int(binary.BigEndian.Uint16(msg[6:])), int(binary.BigEndian.Uint16(msg[8:])), int(binary.BigEndian.Uint16(msg[10:]))
}

// setCounts sets the counts of a message that was cut after that many records.
func setCounts(msg []byte, records int) {
	an, ns, _ := counts(msg)
	ns = min(ns, records-an)
	binary.BigEndian.PutUint16(msg[8:], uint16(ns))
	binary.BigEndian.PutUint16(msg[10:], uint16(records-an-ns))
}

// end returns the offset after the first n records.
func (r *Reply) end(n int) int {
	if n == 0 {
		return r.QEnd
	}
	ttl := int(r.TTLs[n-1])
	return ttl + 6 + int(binary.BigEndian.Uint16(r.Msg[ttl+4:]))
}

// typeOf and owner return the type, and the offset of the owner's name, of record i.
func (r *Reply) typeOf(i int) uint16 { return binary.BigEndian.Uint16(r.Msg[r.TTLs[i]-4:]) }

func (r *Reply) owner(i int) int { return r.end(i) }

// required returns how much of r has to be sent, and fits into limit bytes: the offset of
// its end and the number of its records, which is -1 if it does not fit. RRsets of the
// additional section are not required, nor are the name servers of a positive answer (RFC
// 2181 §9). No RRset is divided. It does not allocate.
func (r *Reply) required(limit int) (end, records int) {
	an, ns, ar := counts(r.Msg)
	if an+ns+ar != len(r.TTLs) || r.TC {
		return 0, -1
	}
	records = an + ns
	if r.end(records) > limit {
		if records = an; r.end(an) > limit || an == 0 || r.Negative || !r.onlyNS(an, an+ns) {
			return 0, -1
		}
		return r.end(records), records
	}
	first := records
	for records < len(r.TTLs) && r.end(records+1) <= limit {
		records++
	}
	records = r.wholeRRsets(first, records)
	return r.end(records), records
}

// onlyNS reports whether all of those records are NS records and their signatures.
func (r *Reply) onlyNS(from, to int) bool {
	for i := from; i < to; i++ {
		typ := r.typeOf(i)
		if typ == TypeRRSIG { // its RDATA starts with the type that it covers
			typ = binary.BigEndian.Uint16(r.Msg[r.TTLs[i]+6:])
		}
		if typ != TypeNS {
			return false
		}
	}
	return true
}

// wholeRRsets returns the greatest number of records up to n that divides no RRset of the
// records from first on.
func (r *Reply) wholeRRsets(first, n int) int {
	if n < len(r.TTLs) && len(r.TTLs)-first > maxCompared {
		return first
	}
	for i := n - 1; i >= first; i-- {
		for j := n; j < len(r.TTLs); j++ {
			if r.sameRRset(i, j) {
				n = i
				break
			}
		}
	}
	return n
}

// sameRRset reports whether two records have the same type, class and owner.
func (r *Reply) sameRRset(i, j int) bool {
	a, b := r.TTLs[i], r.TTLs[j]
	return string(r.Msg[a-4:a]) == string(r.Msg[b-4:b]) && sameNameAt(r.Msg, r.owner(i), r.owner(j))
}

// sameNameAt reports whether two names of a message that was checked are equal except for
// case.
func sameNameAt(msg []byte, a, b int) bool {
	if a == b || msg[a] >= 0xC0 && msg[a] == msg[b] && msg[a+1] == msg[b+1] {
		return true
	}
	var x, y [MaxName]byte
	return sameName(appendPlain(x[:0], msg, a), appendPlain(y[:0], msg, b))
}

// addressTail returns the length of an address record after its class: TTL, RDLENGTH and
// address; 0 for other types.
func addressTail(typ uint16) int {
	switch typ {
	case TypeA:
		return 10
	case TypeAAAA:
		return 22
	}
	return 0
}

// rotatable reports whether an RRset of the answer has several addresses, and records of
// one type that follow each other always are an RRset. So rotate need not compare owners.
func (r *Reply) rotatable() bool {
	several := false
	an, _, _ := counts(r.Msg)
	for i := 1; i < min(an, len(r.TTLs)); i++ {
		if typ := r.typeOf(i); typ != r.typeOf(i-1) || addressTail(typ) == 0 {
			continue
		}
		if !r.sameRRset(i-1, i) || binary.BigEndian.Uint16(r.Msg[r.TTLs[i]-2:]) != ClassIN {
			return false
		}
		several = true
	}
	return several
}

// rotate rotates the addresses of each RRset of the answer in msg, a copy of r's message,
// by a number of places that depends on n. No compression pointer refers to an address. Records of other types keep
// their order, which may have a meaning (a chain of CNAMEs).
func rotate(msg []byte, r *Reply, n uint32) {
	an, _, _ := counts(msg)
	ttls := r.TTLs[:min(an, len(r.TTLs))]
	places := n * 0x9E3779B1 >> 16 // the golden ratio: successive IDs differ in the upper bits
	for i := 0; i < len(ttls); {
		typ := r.typeOf(i)
		j := i + 1
		for j < len(ttls) && r.typeOf(j) == typ {
			j++
		}
		if set := ttls[i:j]; len(set) > 1 && addressTail(typ) > 0 {
			if k := int(places) % len(set); k > 0 {
				moveTails(msg, r.Msg, set[:len(set)-k], set[k:], typ)
				moveTails(msg, r.Msg, set[len(set)-k:], set[:k], typ)
			}
		}
		i = j
	}
}

// moveTails copies what addressTail measures from records of src to records of dst, whose
// TTLs are at those offsets. The lengths are constant, since a call of the memory copying
// function would cost more than the copy.
func moveTails(dst, src []byte, to, from []uint16, typ uint16) {
	from = from[:len(to)]
	if typ == TypeA {
		for i, off := range to {
			*(*[10]byte)(dst[off:]) = *(*[10]byte)(src[from[i]:])
		}
		return
	}
	for i, off := range to {
		*(*[22]byte)(dst[off:]) = *(*[22]byte)(src[from[i]:])
	}
}
