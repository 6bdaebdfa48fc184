// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"sotto/forwarder/wire"
)

const (
	// maxRecord is the most plaintext that one TLS record carries (RFC 8446 §5.1).
	maxRecord = 16 << 10

	// maxGather is about how much leaves in one system call.
	maxGather = 16 << 10
)

var errNoFrame = errors.New("the server sent something that is no DNS message")

// frameReader cuts a stream into messages by the length in front of each
// (RFC 1035 §4.2.2, RFC 7858 §3.3).
type frameReader struct{ br *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{br: bufio.NewReaderSize(r, maxRecord)}
}

// next returns the next message, in a buffer of its own. io.EOF: the stream
// ended between two messages; [io.ErrUnexpectedEOF]: inside one.
func (r *frameReader) next() ([]byte, error) {
	head, err := r.br.Peek(2)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(head[0])<<8 | int(head[1])
	if n < wire.HeaderLen {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errNoFrame, n)
	}
	if _, err := r.br.Discard(2); err != nil {
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

// appendFrame appends query with its length in front and its ID set.
func appendFrame(dst, query []byte, id uint16) []byte {
	dst = append(dst, byte(len(query)>>8), byte(len(query)))
	at := len(dst)
	dst = append(dst, query...)
	wire.SetID(dst[at:], id)
	return dst
}

// checkReply tells whether a message can be a reply at all (RFC 1035 §4.1.1):
// QR set, opcode QUERY. What cannot is no slip of a DNS server.
func checkReply(msg []byte) error {
	const qr, opcode = 0x80, 0x78
	if msg[2]&(qr|opcode) != qr {
		return fmt.Errorf("%w: it starts with %q", errNoFrame, msg[:wire.HeaderLen])
	}
	return nil
}

// matches tells whether reply, whose ID fits, belongs to query. Servers that
// could not read a query, or would not, may leave the question out.
func matches(query, reply []byte) bool {
	return wire.SameQuestion(query, reply) || isBare(reply)
}

// isBare reports whether reply is an error without a question and records, an
// OPT record excepted.
func isBare(reply []byte) bool {
	return isZero(reply[4:10]) && wire.Rcode(reply) != wire.RcodeSuccess
}

// withQuestion gives a bare reply the question of its query, and takes its OPT:
// a code that had a part there (BADVERS) becomes SERVFAIL, rather than what is
// left of it.
func withQuestion(query, reply []byte) []byte {
	end := wire.HeaderLen
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 5 // root, type, class
	if end > len(query) {
		return reply
	}
	extended := wire.Rcode(reply) > 0x0F
	out := append(reply[:wire.HeaderLen:wire.HeaderLen], query[wire.HeaderLen:end]...)
	copy(out[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) // one question, no records
	if extended {
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
