// SPDX-License-Identifier: Apache-2.0

package doq

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/streams"
	"sotto/forwarder/wire"
)

const (
	// firstRead is the size of the first read from a stream. It has room for usual replies.
	firstRead = 1024

	// endTime is how long the server may take to end a stream after its reply.
	endTime = 2 * time.Second
)

// violationError is a fatal error of the server (RFC 9250 §4.3.3).
type violationError struct{ what string }

func (e *violationError) Error() string { return e.what }

// stream is what send and receive use of a [quic.Stream].
type stream interface {
	io.ReadWriteCloser
}

// send writes a query and ends the stream in this direction (RFC 9250 §4.2).
func send(s stream, query []byte) error {
	if _, err := s.Write(wire.AppendFrame(make([]byte, 0, wire.FrameHeaderLen+len(query)), query)); err != nil {
		return err
	}
	return s.Close()
}

// receive reads one message, and reports whether the stream ended with it.
func receive(s stream) (msg []byte, ended bool, err error) {
	buf := make([]byte, firstRead)
	n, size := 0, -1
	for size < 0 || n < size {
		var k int
		k, err = s.Read(buf[n:])
		n += k
		if size < 0 && n >= wire.FrameHeaderLen {
			size = wire.FrameHeaderLen + int(binary.BigEndian.Uint16(buf))
			if size > len(buf) {
				buf = append(make([]byte, 0, size), buf[:n]...)[:size]
			}
		}
		if err != nil {
			break
		}
	}
	switch {
	case size >= 0 && n > size:
		return nil, false, errSecond
	case size >= 0 && n == size && (err == nil || err == io.EOF):
		return buf[wire.FrameHeaderLen:n], err == io.EOF, nil
	case err == io.EOF && n == 0:
		return nil, true, errEmpty
	case err == io.EOF:
		return nil, false, &violationError{fmt.Sprintf("it ended the stream after %d bytes", n)}
	}
	return nil, false, err
}

// errEmpty is the error of a stream that the server ended without a reply. It is treated as if
// the stream had been reset: a server that drops a query has no better way to say so.
var errEmpty = fmt.Errorf("%w: it ended without a reply", streams.ErrReset)

var errSecond = &violationError{"it sent more than one message"}

// readEnd waits until the server ends the stream, and returns an error if it sends anything
// else. What happens to the stream later concerns no query.
func readEnd(s *quic.Stream) error {
	_ = s.SetReadDeadline(time.Now().Add(endTime))
	n, err := s.Read(make([]byte, 1))
	if n > 0 {
		return errSecond
	}
	if err != io.EOF {
		s.CancelRead(noError)
	}
	return nil
}

// checkMessage returns an error if a message violates the protocol.
func checkMessage(msg []byte) error {
	if len(msg) < wire.HeaderLen {
		return nil // the reply is not accepted, which concerns its query alone
	}
	if wire.ID(msg) != 0 {
		return &violationError{fmt.Sprintf("it sent the message ID %d", wire.ID(msg))}
	}
	if _, ok := wire.Keepalive(msg); ok {
		return &violationError{"it sent the option edns-tcp-keepalive"}
	}
	return nil
}
