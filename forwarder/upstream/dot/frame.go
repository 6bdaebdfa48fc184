// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bufio"
	"fmt"
	"io"

	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// maxRecord is the largest plaintext of a TLS record (RFC 8446 §5.1).
	maxRecord = 16 << 10

	// maxGather is roughly the number of bytes sent in one system call.
	maxGather = 16 << 10
)

// frameReader splits a stream into messages by the length that precedes each (RFC 1035
// §4.2.2, RFC 7858 §3.3).
type frameReader struct{ br *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{br: bufio.NewReaderSize(r, maxRecord)}
}

// next returns the next message, in a buffer of its own. It returns [io.EOF] if the
// stream ended between two messages, and [io.ErrUnexpectedEOF] if within one.
func (r *frameReader) next() ([]byte, error) {
	head, err := r.br.Peek(wire.FrameHeaderLen)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(head[0])<<8 | int(head[1])
	if n < wire.HeaderLen {
		return nil, fmt.Errorf("%w: a frame of %d bytes", transport.ErrMalformed, n)
	}
	if _, err := r.br.Discard(wire.FrameHeaderLen); err != nil {
		return nil, err
	}
	msg := make([]byte, n)
	if _, err := io.ReadFull(r.br, msg); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return msg, nil
}

// appendQuery appends the frame of a query with that ID.
func appendQuery(dst, query []byte, id uint16) []byte {
	start := len(dst)
	dst = wire.AppendFrame(dst, query)
	wire.SetID(dst[start+wire.FrameHeaderLen:], id)
	return dst
}

// checkReply returns an error if a message cannot be a reply at all (RFC 1035 §4.1.1): it
// needs QR set and opcode QUERY. A DNS server does not get that wrong by accident.
func checkReply(msg []byte) error {
	const qr, opcode = 0x80, 0x78
	if msg[2]&(qr|opcode) != qr {
		return fmt.Errorf("%w: it starts with %q", transport.ErrMalformed, msg[:wire.HeaderLen])
	}
	return nil
}

// matches reports whether reply, which has the right ID, belongs to query. Servers that
// cannot or will not read a query may omit the question.
func matches(query, reply []byte) bool {
	return wire.SameQuestion(query, reply) || isBare(reply)
}

// isBare reports whether reply is an error without a question and without records other
// than OPT.
func isBare(reply []byte) bool {
	return isZero(reply[4:10]) && wire.Rcode(reply) != wire.RcodeSuccess
}

// withQuestion adds the question of the query to a bare reply and removes its OPT record.
// Only the lower bits of an extended rcode would be left: BADVERS becomes FORMERR, with which
// older servers reject EDNS, and any other becomes SERVFAIL.
func withQuestion(query, reply []byte) []byte {
	end := wire.HeaderLen
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // root, type, class
	if end > len(query) {
		return reply
	}
	rcode := wire.Rcode(reply)
	out := append(reply[:wire.HeaderLen:wire.HeaderLen], query[wire.HeaderLen:end]...)
	copy(out[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) // one question, no records
	switch {
	case rcode == wire.RcodeBadVers:
		out[3] = out[3]&0xF0 | byte(wire.RcodeFormErr)
	case rcode > 0x0F:
		out[3] = out[3]&0xF0 | byte(wire.RcodeServFail)
	}
	return out
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
