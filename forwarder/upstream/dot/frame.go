// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bufio"
	"io"

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

// next returns the next message, in a buffer of its own. It may be shorter than a header. next returns [io.EOF] if the
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
