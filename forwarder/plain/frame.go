// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bufio"
	"fmt"
	"io"
	"slices"

	"sotto/forwarder/wire"
)

// readFrame reads the next message (RFC 1035 §4.2.2), into buf if that is large enough.
// The error is [io.EOF] if the stream ended between two messages, and
// [io.ErrUnexpectedEOF] if it ended inside one.
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	var head [wire.FrameHeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(head[0])<<8 | int(head[1])
	if n < wire.HeaderLen {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errNotDNS, n)
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
