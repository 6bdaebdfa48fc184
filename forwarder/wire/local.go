// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// LocalTTL is the TTL in seconds of the records that Sotto makes itself. It is short,
// because clients and caching stubs keep them after the rule has changed.
const LocalTTL = 60

// Local is an answer that Sotto makes itself.
type Local struct {
	Rcode   uint16
	Count   uint16 // of Records
	Records []byte // the answer section, with OwnerQuestion as the owner of each record

	// SOA adds a synthesised SOA record if there are no Records, so that clients cache
	// the negative answer for [LocalTTL] (RFC 2308 §3). Its owner is the question's
	// name: Sotto does not know where a zone starts, and makes no claim about others.
	SOA bool
}

// OwnerQuestion is a compression pointer to the question's name.
const OwnerQuestion = 0xC000 | HeaderLen

// AppendRecord appends a record of class IN for [Local].Records.
func AppendRecord(dst []byte, typ uint16, data []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, OwnerQuestion)
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, ClassIN)
	dst = binary.BigEndian.AppendUint32(dst, LocalTTL)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	return append(dst, data...)
}

// localSOA is the synthesised record: "localhost. nobody.invalid. 1 3600 1200 604800 60",
// the names that unbound has in its built-in zones.
var localSOA = AppendRecord(nil, TypeSOA, []byte("\x09localhost\x00\x06nobody\x07invalid\x00"+
	"\x00\x00\x00\x01\x00\x00\x0E\x10\x00\x00\x04\xB0\x00\x09\x3A\x80\x00\x00\x00\x3C"))

// AppendLocal appends a to the client that sent q. A limit above 0 is the maximum length
// over UDP: if the answer does not fit, the reply has no records and TC=1. The header and
// OPT are those of [AppendError], which is also what a reply without records is.
func AppendLocal(dst []byte, q *Query, a Local, limit int, ede ...EDE) []byte {
	count, records, at := a.Count, a.Records, 7 // offset of ANCOUNT's low byte
	if count == 0 && a.SOA {
		count, records, at = 1, localSOA, 9 // NSCOUNT
	}
	if count == 0 || q.QEnd <= HeaderLen {
		return AppendError(dst, q, a.Rcode, ede...)
	}
	if limit <= 0 {
		limit = MaxMessage
	}
	room := max(limit, MinUDPSize) - q.QEnd - len(records)
	if q.EDNS {
		room -= optLen + q.cookieSize()
	}
	if room < 0 {
		return appendTruncated(dst, q, a.Rcode)
	}
	start := len(dst)
	dst = appendHeader(dst, q, a.Rcode)
	dst[start+5] = 1
	dst[start+at-1], dst[start+at] = byte(count>>8), byte(count)
	dst = append(dst, q.Msg[HeaderLen:q.QEnd]...)
	dst = append(dst, records...)
	if q.EDNS {
		dst[start+11] = 1
		d := fitEDEs(room, ede, nil)
		dst = appendOPT(dst, a.Rcode, q.DO, q.cookieSize()+edeSize(d, ede))
		dst = appendCookie(dst, q)
		dst = appendEDE(dst, d, ede)
	}
	return dst
}
