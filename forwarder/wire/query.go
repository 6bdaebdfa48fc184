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

// Errors of [ParseQuery]. Each but [ErrIgnore] is answered.
var (
	// ErrIgnore: shorter than a header, or a reply. Answering either would
	// only let somebody use us to hit, or to loop with, a third party.
	ErrIgnore = errors.New("parse query: not a query")
	// ErrFormat: to be answered with FORMERR.
	ErrFormat = errors.New("parse query: malformed")
	// ErrVersion: an EDNS version that we do not speak, to be answered with BADVERS.
	ErrVersion = errors.New("parse query: unknown EDNS version")
	// ErrOpcode: to be answered with NOTIMP.
	ErrOpcode = errors.New("parse query: unknown opcode")
)

// Query is one client's request as [ParseQuery] found it. Msg and Name alias
// the message and live as long as its buffer.
type Query struct {
	Msg    []byte
	Name   []byte // of the question: uncompressed, case as sent, with the root byte
	Type   uint16
	Class  uint16
	QEnd   int // offset after the question; HeaderLen when it could not be read
	ID     uint16
	Opcode uint8
	RD     bool
	AD     bool
	CD     bool

	EDNS    bool   // the query has an OPT record, so its reply needs one
	Version uint8  // of EDNS
	UDPSize uint16 // what the client takes over UDP: as sent, at least 512
	DO      bool

	// Signed: the query ends in TSIG. Who has no key can neither check nor make
	// a signature, and RFC 8945 §5.5 would have a forwarder pass the message on
	// unchanged, which EDNS hop by hop and TLS to somebody else rule out. So
	// policy decides; the reply of AppendReply is unsigned, and its client drops
	// it. (SIG(0) on a query need not be looked at: RFC 2931.)
	Signed bool
	tsig   tsig
}

// UDPLimit is how long a UDP reply to q may be.
func (q *Query) UDPLimit() int { return int(min(max(q.UDPSize, MinUDPSize), UDPSize)) }

// ParseQuery takes a client's message apart. With any error but [ErrIgnore] the
// Query holds what was found, enough for [AppendError]. It is strict:
//
//   - QDCOUNT has to be 1 (RFC 9619), the name uncompressed: there is nothing
//     before the question that a pointer could mean.
//   - Every record that the counts promise is walked, and nothing may follow
//     them: bytes that the counts do not cover mean that the counts lie or
//     somebody smuggles. NSD and Knot refuse them as well.
//   - One OPT at the most, owned by the root, in the additional section, with
//     options that fill its RDATA exactly (RFC 6891 §6.1.1).
//   - TSIG only as the last record (RFC 8945 §5.1), and one that can be read
//     (§5.2).
//
// The opcode comes first: what is neither QUERY, NOTIFY nor UPDATE gets
// [ErrOpcode], well-formed or not, since only its opcode says what its form is.
// NOTIFY and UPDATE (whose zone section has the form of a question) are checked
// like queries and returned with their Opcode and a nil error: refusing or
// forwarding them is policy, like RD=0, AXFR and other classes.
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
	switch q.Opcode {
	case OpcodeQuery, OpcodeNotify, OpcodeUpdate:
		return q, err
	}
	return q, ErrOpcode
}

// walk reads the question and every record of q.Msg.
func (q *Query) walk() error {
	msg := q.Msg
	if len(msg) > MaxMessage || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return ErrFormat
	}
	off, err := plainName(msg, HeaderLen)
	if err != nil || off+4 > len(msg) {
		return ErrFormat
	}
	q.Name = msg[HeaderLen:off]
	q.Type = binary.BigEndian.Uint16(msg[off:])
	q.Class = binary.BigEndian.Uint16(msg[off+2:])
	off += 4
	q.QEnd = off

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
				q.EDNS = true // it knows EDNS, if badly
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
	if off != len(msg) {
		return ErrFormat
	}
	if q.Version != 0 {
		return ErrVersion
	}
	return nil
}

// readOPT takes what a query's OPT record says. An unknown version is not an
// error here: that the rest is well-formed has to be known first.
func (q *Query) readOPT(rr record) error {
	q.EDNS = true
	q.UDPSize = max(rr.class, MinUDPSize)
	q.Version = q.Msg[rr.ttl+1]
	q.DO = q.Msg[rr.ttl+2]&bitDO != 0
	if q.Version != 0 {
		return nil // only version 0 says what is in the RDATA
	}
	for data := q.Msg[rr.data:rr.end]; len(data) > 0; {
		_, _, rest, ok := nextOption(data)
		if !ok {
			return ErrFormat
		}
		data = rest
	}
	return nil
}

// record is where one record's parts are in its message.
type record struct {
	typ, class uint16
	ttl        int // offset of the TTL
	data, end  int // offsets of the RDATA and of what follows it
}

// fixedLen is the length of what stands between a record's owner and its RDATA.
const fixedLen = 10

// skipRecord finds the parts of the record at off.
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

// readFixed reads a record from after its owner name.
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

// AppendQuery appends the query that goes upstream for q, over a stream: ID 0 for
// the connection to fill in ([SetID]), RD=1, AD=1 (so that the reply's AD means
// something, RFC 6840 §5.7), CD as sent, q's question, and an OPT of our own
// with DO as sent, the wish to hear how long the connection is kept (RFC 7828, which
// has it over streams alone, see [Keepalive]), and padded to a multiple of 128 bytes
// (RFC 8467 §4.1). No cookie, no client subnet. q must have been parsed without an
// error.
func AppendQuery(dst []byte, q *Query) []byte {
	flags := byte(bitAD)
	if q.CD {
		flags |= bitCD
	}
	dst = append(dst, 0, 0, bitRD, flags, 0, 1, 0, 0, 0, 0, 0, 1)
	dst = append(dst, q.Msg[HeaderLen:q.QEnd]...)
	const (
		block   = 128
		options = 2 * optionLen // both without a value, so far
	)
	pad := -(q.QEnd + optLen + options) & (block - 1)
	dst = appendOPT(dst, 0, q.DO, options+pad)
	dst = append(dst, 0, optKeepalive, 0, 0, 0, optPadding, 0, byte(pad))
	return append(dst, zeros[:pad]...)
}

var zeros [128]byte

// AppendKey appends the key under which the reply to q may be shared: the
// lower-cased name, type, class, DO and CD. It comes from the client's question
// and never from a reply, so that no upstream can choose what it is cached for.
func AppendKey(dst []byte, q *Query) []byte {
	for _, c := range q.Name {
		dst = append(dst, lower(c))
	}
	flags := byte(0)
	if q.DO {
		flags |= 1
	}
	if q.CD {
		flags |= 2
	}
	return append(dst, byte(q.Type>>8), byte(q.Type), byte(q.Class>>8), byte(q.Class), flags)
}

// SameQuestion tells whether two messages have one and the same question: name
// (but for case), type and class.
func SameQuestion(a, b []byte) bool {
	x, y := questionOf(a), questionOf(b)
	if x == nil || len(x) != len(y) {
		return false
	}
	n := len(x) - 4
	return sameName(x[:n], y[:n]) && string(x[n:]) == string(y[n:])
}

// questionOf returns the only question of a message, nil if there is none or more.
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
