// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of messages. The contents of a kind never change.
const (
	MsgReady   = 'r' // successor, first: it waits for the sockets
	MsgSockets = 's' // predecessor: the sockets; the data is the number of UDP sockets, which come first
	MsgTake    = 't' // successor: its hooks are attached and it answers queries
	MsgConn    = 'c' // predecessor: a TCP connection and the bytes that were read from it
	MsgDone    = 'd' // predecessor: there are no more connections
	MsgRefused = 'n' // predecessor: it resumes, and the successor has to exit

	// From the predecessor, if the successor's terms have a version:
	MsgReplaced = 'i' // before MsgSockets: the identities of the processes it has replaced and its own, as JSON
	MsgTaken    = 'k' // reply to MsgTake: the predecessor stops reading queries
)

// Timeout is how long either process waits for a message, longer than a start takes on a
// busy machine.
const Timeout = time.Minute

// ErrTooLate is the error of a successor that the predecessor has stopped waiting for.
var ErrTooLate = errors.New("the running Sotto waited too long for this one and resumed: try again")

// Expect receives a message and returns an error if it is of another kind. It closes files
// that come with it.
func (c *Conn) Expect(kind byte) error {
	got, _, files, err := c.Receive()
	closeAll(files)
	if err == nil && got != kind {
		err = fmt.Errorf("received message %q instead of %q", got, kind)
	}
	return err
}

// isClosed reports whether err means that the other process has closed the connection or
// exited. A predecessor that resumes sends MsgRefused before it closes, and that message can
// be received even if sending fails.
func isClosed(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}
