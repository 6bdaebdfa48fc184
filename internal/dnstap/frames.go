// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// contentType is that of dnstap.
const contentType = "protobuf:dnstap.Dnstap"

// frameHeaderLen is the size of a frame's length.
const frameHeaderLen = 4

// Types of control frames.
const (
	controlAccept = 1
	controlStart  = 2
	controlStop   = 3
	controlReady  = 4
	controlFinish = 5
)

const (
	// fieldContentType is the only field of a control frame.
	fieldContentType = 1

	// maxControl limits a control frame, as in the reference implementation.
	maxControl = 512
)

// appendControl appends a control frame: an empty data frame, a length, the type and, if
// named, the content type.
func appendControl(dst []byte, typ uint32, named bool) []byte {
	n := uint32(4)
	if named {
		n += 8 + uint32(len(contentType))
	}
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, n)
	dst = binary.BigEndian.AppendUint32(dst, typ)
	if named {
		dst = binary.BigEndian.AppendUint32(dst, fieldContentType)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(contentType)))
		dst = append(dst, contentType...)
	}
	return dst
}

var errControl = errors.New("the receiver does not follow the protocol of Frame Streams")

// readControl reads a control frame of type want. It reports whether the frame names the
// content type of dnstap.
func readControl(r io.Reader, want uint32) (named bool, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, err
	}
	n, typ := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if binary.BigEndian.Uint32(head[:]) != 0 || n < 4 || n > maxControl {
		return false, errControl
	}
	fields := make([]byte, n-4)
	if _, err := io.ReadFull(r, fields); err != nil {
		return false, err
	}
	if typ != want {
		return false, fmt.Errorf("%w: control frame %d in place of %d", errControl, typ, want)
	}
	for len(fields) > 0 {
		if len(fields) < 8 || binary.BigEndian.Uint32(fields) != fieldContentType || uint32(len(fields)-8) < binary.BigEndian.Uint32(fields[4:]) {
			return false, errControl
		}
		end := 8 + binary.BigEndian.Uint32(fields[4:])
		named = named || bytes.Equal(fields[8:end], []byte(contentType))
		fields = fields[end:]
	}
	return named, nil
}
