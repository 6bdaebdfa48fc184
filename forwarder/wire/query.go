// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"errors"
)

// Bits of the header's third and fourth byte (RFC 1035 §4.1.1, RFC 4035 §3).
const (
	bitQR = 0x80 // third byte
	bitAA = 0x04
	bitTC = 0x02
	bitRD = 0x01
	bitRA = 0x80 // fourth byte
	bitAD = 0x20
	bitCD = 0x10

	bitDO = 0x80 // first byte of the flags in OPT's TTL (RFC 6891 §6.1.4)

	opcodeShift = 3
	opcodeMask  = 0x0F
)

// Errors of [ParseQuery]. A message gets a reply unless the error is [ErrIgnore].
var (
	// ErrIgnore: shorter than a header, or a reply. Answering either would allow
	// attacks on third parties, or an endless exchange with one.
	ErrIgnore = errors.New("parse query: not a query")
	// ErrFormat: answered with FORMERR.
	ErrFormat = errors.New("parse query: malformed")
	// ErrCookieQuery: no question and a COOKIE option, which asks for a server cookie
	// (RFC 7873 §5.4). Answered with that.
	ErrCookieQuery = errors.New("parse query: a query for a server cookie")
	// ErrVersion: an unsupported EDNS version, answered with BADVERS.
	ErrVersion = errors.New("parse query: unknown EDNS version")
	// ErrOpcode: answered with NOTIMP.
	ErrOpcode = errors.New("parse query: unknown opcode")
)

// Query is a client's query, parsed by [ParseQuery]. Msg and Name alias the message and
// are valid as long as its buffer.
type Query struct {
	Msg    []byte
	Name   []byte // of the question: uncompressed, case as sent, with the root byte
	Type   uint16
	Class  uint16
	QEnd   int // offset after the question; HeaderLen if it could not be parsed
	ID     uint16
	Opcode uint8
	RD     bool
	AD     bool
	CD     bool

	EDNS    bool   // the query has an OPT record, so its reply needs one
	Version uint8  // of EDNS
	UDPSize uint16 // the size that the client accepts over UDP, at least 512
	DO      bool

	cookieAt, cookieEnd int             // of the value of the COOKIE option in Msg; 0 if there is none
	cookie              [cookieLen]byte // of the reply, see [Query.SetCookie]
	reply               bool            // there is one

	// Signed reports that the query ends with TSIG. Without the key a signature can
	// be neither checked nor made, and RFC 8945 §5.5 requires forwarders to pass the
	// message on unchanged, which is impossible with EDNS hop by hop and another
	// server. So policy decides; a reply of AppendReply is unsigned, and the client
	// drops it. (SIG(0) on a query may be ignored: RFC 2931.)
	Signed bool
	tsig   tsig
}

// UDPLimit returns the maximum length of a UDP reply to q.
func (q *Query) UDPLimit() int { return int(min(max(q.UDPSize, MinUDPSize), UDPSize)) }

// ParseQuery parses a client's message. With any error except [ErrIgnore] the Query has
// what was parsed, which is enough for [AppendError]. It is strict:
//
//   - QDCOUNT has to be 1 (RFC 9619), and the name uncompressed, since nothing precedes
//     the question that a pointer could refer to. It may be 0 with a COOKIE option
//     ([ErrCookieQuery]).
//   - All records must be present that the counts announce. Bytes after them are discarded
//     (BIND, Unbound and NSD ignore them too), so they cannot hide data in a message that
//     is passed on.
//   - At most one OPT, owned by the root, in the additional section, with options that
//     fill its RDATA exactly (RFC 6891 §6.1.1).
//   - A COOKIE option of a valid length (RFC 7873 §5.2.2).
//   - TSIG only as the last record (RFC 8945 §5.1), and well-formed (§5.2).
//
// The opcode is checked first: a message that is not QUERY, NOTIFY or UPDATE gets
// [ErrOpcode], well-formed or not, since the format depends on the opcode. NOTIFY and
// UPDATE (whose zone section has the format of a question) are checked like queries and
// returned with their Opcode and a nil error: whether to refuse or forward them is policy,
// like RD=0, AXFR and other classes.
func ParseQuery(msg []byte) (Query, error) {
	if len(msg) < HeaderLen || msg[2]&bitQR != 0 {
		return Query{}, ErrIgnore
	}
	q := Query{
		Msg:     msg,
		QEnd:    HeaderLen,
		ID:      binary.BigEndian.Uint16(msg),
		Opcode:  msg[2] >> opcodeShift & opcodeMask,
		RD:      msg[2]&bitRD != 0,
		AD:      msg[3]&bitAD != 0,
		CD:      msg[3]&bitCD != 0,
		UDPSize: MinUDPSize,
	}
	err := q.walk()
	if err == ErrFormat && !q.EDNS {
		q.EDNS = usesEDNS(msg)
	}
	if !HasQuestion(q.Opcode) {
		return q, ErrOpcode
	}
	return q, err
}

// Outline reads the header and the question of a message that is not answered, for a report:
// also of a response, or of one that is malformed or incomplete. What cannot be read is zero. The
// result must not be replied to.
func Outline(msg []byte) (q Query) {
	if len(msg) < HeaderLen {
		return q
	}
	q = Query{Msg: msg, QEnd: HeaderLen, ID: binary.BigEndian.Uint16(msg), Opcode: msg[2] >> opcodeShift & opcodeMask}
	if binary.BigEndian.Uint16(msg[4:]) > 0 {
		_ = q.readQuestion()
	}
	return q
}

// readQuestion reads the question of q.Msg.
func (q *Query) readQuestion() error {
	msg := q.Msg
	off, err := plainName(msg, HeaderLen)
	if err != nil || off+4 > len(msg) {
		return ErrFormat
	}
	q.Name = msg[HeaderLen:off]
	q.Type = binary.BigEndian.Uint16(msg[off:])
	q.Class = binary.BigEndian.Uint16(msg[off+2:])
	q.QEnd = off + 4
	return nil
}

// walk reads the question and every record of q.Msg.
func (q *Query) walk() error {
	msg := q.Msg
	questions := binary.BigEndian.Uint16(msg[4:])
	if len(msg) > MaxMessage || questions > 1 || questions == 0 && q.Opcode != OpcodeQuery {
		return ErrFormat
	}
	if questions == 1 {
		if err := q.readQuestion(); err != nil {
			return err
		}
	}
	off := q.QEnd

	ar := int(binary.BigEndian.Uint16(msg[10:]))
	n := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + ar
	for left := n; left > 0; left-- {
		rr, err := skipRecord(msg, off)
		if err != nil {
			return ErrFormat
		}
		switch {
		case rr.typ == TypeOPT:
			if q.EDNS || left > ar || msg[off] != 0 {
				q.EDNS = true // the client uses EDNS, although incorrectly
				return ErrFormat
			}
			if err := q.readOPT(rr); err != nil {
				return err
			}
		case rr.typ == TypeTSIG:
			if left != 1 || ar == 0 {
				return ErrFormat
			}
			if q.tsig, q.Signed = readTSIG(msg, off, rr); !q.Signed {
				return ErrFormat
			}
		}
		off = rr.end
	}
	q.Msg = msg[:off]
	switch {
	case q.Version != 0:
		return ErrVersion
	case questions == 1:
		return nil
	case q.HasCookie():
		return ErrCookieQuery
	}
	return ErrFormat
}

// readOPT reads a query's OPT record. An unknown version is not an error here, since the
// rest of the message has to be checked first.
func (q *Query) readOPT(rr record) error {
	q.EDNS = true
	q.UDPSize = max(rr.class, MinUDPSize)
	q.Version = q.Msg[rr.ttl+1]
	q.DO = q.Msg[rr.ttl+2]&bitDO != 0
	if q.Version != 0 {
		return nil // the RDATA is defined for version 0 only
	}
	for data := q.Msg[rr.data:rr.end]; len(data) > 0; {
		code, value, rest, ok := nextOption(data)
		if ok && code == optCookie {
			ok = q.readCookie(value, rr.end-len(rest))
		}
		if !ok {
			return ErrFormat
		}
		data = rest
	}
	return nil
}

// record has the offsets of one record's parts.
type record struct {
	typ, class uint16
	ttl        int // offset of the TTL
	data, end  int // offsets of the RDATA and of what follows it
}

// fixedLen is the length of the fields between a record's owner and its RDATA.
const fixedLen = 10

// skipRecord returns the parts of the record at off.
func skipRecord(msg []byte, off int) (record, error) {
	off, err := skipName(msg, off)
	if err != nil {
		return record{}, err
	}
	return readFixed(msg, off)
}

var (
	errFixed = errors.New("record is cut off before its data")
	errData  = errors.New("record's data runs past the message's end")
)

// readFixed reads a record's fields after its owner name.
func readFixed(msg []byte, off int) (record, error) {
	if off+fixedLen > len(msg) {
		return record{}, errFixed
	}
	rr := record{
		typ:   binary.BigEndian.Uint16(msg[off:]),
		class: binary.BigEndian.Uint16(msg[off+2:]),
		ttl:   off + 4,
		data:  off + fixedLen,
	}
	rr.end = rr.data + int(binary.BigEndian.Uint16(msg[off+8:]))
	if rr.end > len(msg) {
		return record{}, errData
	}
	return rr, nil
}

// AppendQuery appends the upstream query for q, to be sent over a stream: ID 0, which the
// connection replaces ([SetID]), RD=1, AD=1 (so that AD in the reply is significant, RFC
// 6840 §5.7), CD as sent, q's question, and a new OPT with DO as sent. The OPT requests
// the idle timeout (RFC 7828, defined for streams only, see [Keepalive]), and has padding
// to a multiple of 128 bytes (RFC 8467 §4.1), but no cookie and no client subnet. q must
// have been parsed without an error.
func AppendQuery(dst []byte, q *Query) []byte {
	flags := byte(bitAD)
	if q.CD {
		flags |= bitCD
	}
	dst = append(dst, 0, 0, bitRD, flags, 0, 1, 0, 0, 0, 0, 0, 1)
	dst = append(dst, q.Msg[HeaderLen:q.QEnd]...)
	const (
		block   = 128
		options = 2 * optionLen // keepalive and padding without values
	)
	pad := -(q.QEnd + optLen + options) & (block - 1)
	dst = appendOPT(dst, 0, q.DO, options+pad)
	dst = append(dst, 0, optKeepalive, 0, 0, 0, optPadding, 0, byte(pad))
	return append(dst, zeros[:pad]...)
}

var zeros [128]byte

// AppendWithoutOPT appends a query of [AppendQuery] without its OPT record, for a server
// that rejects EDNS (RFC 6891 §6.2.2). It reports false if the query has no OPT, or
// records other than that.
func AppendWithoutOPT(dst, query []byte) ([]byte, bool) {
	end := ownOPT(query)
	if end == 0 {
		return dst, false
	}
	start := len(dst)
	dst = append(dst, query[:end]...)
	dst[start+11] = 0
	return dst, true
}

// WantsDNSSEC reports whether a query of [AppendQuery] has DO set.
func WantsDNSSEC(query []byte) bool {
	end := ownOPT(query)
	return end != 0 && query[end+7]&bitDO != 0
}

// ownOPT returns the offset of a query's OPT record, which has to be its only record, or
// 0 if there is none.
func ownOPT(query []byte) int {
	q := questionOf(query)
	if q == nil {
		return 0
	}
	off := HeaderLen + len(q)
	counts := binary.BigEndian.Uint32(query[6:]) // answers and authority
	if counts != 0 || binary.BigEndian.Uint16(query[10:]) != 1 || len(query) < off+optLen ||
		query[off] != 0 || binary.BigEndian.Uint16(query[off+1:]) != TypeOPT {
		return 0
	}
	return off
}

// Bits of the last byte of a key.
const (
	KeyDO = 1 // DO is set
	keyCD = 2
)

// AppendKey appends the key under which the reply to q may be shared: the lower-cased
// name, type, class, DO and CD. It is derived from the client's query and never from a
// reply, so that an upstream cannot choose the key under which its reply is cached.
func AppendKey(dst []byte, q *Query) []byte {
	for _, c := range q.Name {
		dst = append(dst, Lower(c))
	}
	flags := byte(0)
	if q.DO {
		flags |= KeyDO
	}
	if q.CD {
		flags |= keyCD
	}
	return append(dst, byte(q.Type>>8), byte(q.Type), byte(q.Class>>8), byte(q.Class), flags)
}

// SameQuestion reports whether two messages have the same single question: name (except
// for case), type and class.
func SameQuestion(a, b []byte) bool {
	x, y := questionOf(a), questionOf(b)
	if x == nil || len(x) != len(y) {
		return false
	}
	n := len(x) - 4
	return sameName(x[:n], y[:n]) && string(x[n:]) == string(y[n:])
}

// questionOf returns the question of a message, or nil if it has not exactly one.
func questionOf(msg []byte) []byte {
	if len(msg) < HeaderLen || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil
	}
	off, err := plainName(msg, HeaderLen)
	if err != nil || off+4 > len(msg) {
		return nil
	}
	return msg[HeaderLen : off+4]
}

// ID returns the ID of a message that has at least a header.
func ID(msg []byte) uint16 { return binary.BigEndian.Uint16(msg) }

// SetID writes the ID of a message that has at least a header.
func SetID(msg []byte, id uint16) { binary.BigEndian.PutUint16(msg, id) }
