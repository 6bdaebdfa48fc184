// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"fmt"
	"io"
	"slices"

	"sotto/forwarder/wire"
)

// frameLen is the length in front of a message over TCP (RFC 1035 §4.2.2).
const frameLen = 2

// appendFrame appends msg with its length in front.
func appendFrame(dst, msg []byte) []byte {
	dst = append(dst, byte(len(msg)>>8), byte(len(msg)))
	return append(dst, msg...)
}

// readFrame reads the next message, into buf if it has room. io.EOF: the stream
// ended between two messages; [io.ErrUnexpectedEOF]: inside one.
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	var head [frameLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(head[0])<<8 | int(head[1])
	if n < wire.HeaderLen {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errNoFrame, n)
	}
	msg := slices.Grow(buf[:0], n)[:n]
	if _, err := io.ReadFull(r, msg); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return msg, nil
}
