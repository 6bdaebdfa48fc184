// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"encoding/binary"
	"strings"
)

// Record types for which a [Zone] has data. It treats others as opaque.
const (
	TypeA     = 1
	TypeNS    = 2
	TypeCNAME = 5
	TypeSOA   = 6
	TypePTR   = 12
	TypeMX    = 15
	TypeTXT   = 16
	TypeAAAA  = 28
	TypeSRV   = 33
	TypeOPT   = 41
	TypeRRSIG = 46
	TypeSVCB  = 64
	TypeHTTPS = 65
)

// Response codes.
const (
	RcodeSuccess  = 0
	RcodeFormErr  = 1
	RcodeServFail = 2
	RcodeNXDomain = 3
	RcodeNotImp   = 4
	RcodeRefused  = 5
)

const (
	headerLen  = 12
	classIN    = 1
	plainUDP   = 512  // RFC 1035 §4.2.1
	ednsSize   = 1232 // UDP payload size that the server advertises
	maxMessage = 65535
	optLen     = 11
)

// query is a parsed query.
type query struct {
	msg    []byte
	name   []byte // wire name, lower-cased
	labels []string
	qtype  uint16
	qend   int
	edns   bool
	do     bool
	size   int // largest UDP reply that the client accepts
}

// parse parses a query with one question. It rejects compressed names, which do not
// occur in questions.
func parse(msg []byte) (query, bool) {
	q := query{msg: msg, size: plainUDP}
	if len(msg) < headerLen || msg[2]&0x80 != 0 || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return q, false
	}
	at := headerLen
	for {
		if at >= len(msg) {
			return q, false
		}
		n := int(msg[at])
		at++
		if n == 0 {
			break
		}
		if n > 63 || at+n > len(msg) {
			return q, false
		}
		q.labels = append(q.labels, strings.ToLower(string(msg[at:at+n])))
		at += n
	}
	if at+4 > len(msg) || at-headerLen > 255 {
		return q, false
	}
	q.name = []byte(strings.ToLower(string(msg[headerLen:at])))
	q.qtype = binary.BigEndian.Uint16(msg[at:])
	q.qend = at + 4
	q.readOPT()
	return q, true
}

// readOPT reads the OPT record directly after the question, where queries have it.
func (q *query) readOPT() {
	rest := q.msg[q.qend:]
	counts := binary.BigEndian.Uint32(q.msg[6:]) // answers and authority
	if counts != 0 || len(rest) < optLen || rest[0] != 0 || binary.BigEndian.Uint16(rest[1:]) != TypeOPT {
		return
	}
	q.edns = true
	q.size = max(plainUDP, int(binary.BigEndian.Uint16(rest[3:])))
	q.do = rest[7]&0x80 != 0
}

func (q *query) nameString() string { return strings.Join(q.labels, ".") + "." }

// reply builds a message, section by section. It compresses only names that equal the
// question's (RFC 1035 §4.1.4).
type reply struct {
	q   *query
	msg []byte
}

// Sections of a reply, as the offsets of their counts in the header.
const (
	answerSection    = 6
	authoritySection = 8
	additionSection  = 10
)

// questionPtr is a compression pointer to the name in the question.
var questionPtr = []byte{0xc0, headerLen}

// newReply returns a reply that echoes the question byte for byte.
func newReply(q *query) *reply {
	r := &reply{q: q, msg: make([]byte, 0, 512)}
	r.msg = append(r.msg, q.msg[:q.qend]...)
	binary.BigEndian.PutUint64(r.msg[4:], 1<<48)
	return r
}

// add appends a record. The owner is a name in wire form or a pointer.
func (r *reply) add(section int, owner []byte, typ uint16, ttl uint32, rdata []byte) {
	r.msg = append(r.msg, owner...)
	r.msg = binary.BigEndian.AppendUint16(r.msg, typ)
	r.msg = binary.BigEndian.AppendUint16(r.msg, classIN)
	r.msg = binary.BigEndian.AppendUint32(r.msg, ttl)
	r.msg = binary.BigEndian.AppendUint16(r.msg, uint16(len(rdata)))
	r.msg = append(r.msg, rdata...)
	n := binary.BigEndian.Uint16(r.msg[section:])
	binary.BigEndian.PutUint16(r.msg[section:], n+1)
}

// finish sets the header flags, adds the OPT record and returns the message. A reply
// that is too long becomes SERVFAIL.
func (r *reply) finish(rcode uint8) []byte {
	if len(r.msg)+optLen > maxMessage {
		return newReply(r.q).finish(RcodeServFail)
	}
	r.msg[2] = 0x80 | r.q.msg[2]&0x79 // QR; opcode and RD from the query
	r.msg[3] = 0x80 | r.q.msg[3]&0x10 | rcode&0xf
	if r.q.edns {
		r.addOPT()
	}
	return r.msg
}

func (r *reply) addOPT() {
	flags := byte(0)
	if r.q.do {
		flags = 0x80
	}
	r.msg = append(r.msg, 0, 0, TypeOPT, ednsSize>>8, ednsSize&0xff, 0, 0, flags, 0, 0, 0)
	n := binary.BigEndian.Uint16(r.msg[additionSection:])
	binary.BigEndian.PutUint16(r.msg[additionSection:], n+1)
}

// truncate returns msg if the client accepts its size over UDP; else header, question
// and OPT with TC set.
func truncate(q *query, msg []byte) []byte {
	if len(msg) <= q.size {
		return msg
	}
	short := newReply(q).finish(msg[3] & 0xf)
	short[2] |= 0x02
	return short
}

// wireName converts a presentation name without escapes to wire form.
func wireName(name string) []byte {
	var out []byte
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		if label == "" {
			continue
		}
		out = append(out, byte(len(label)))
		out = append(out, strings.ToLower(label)...)
	}
	return append(out, 0)
}
