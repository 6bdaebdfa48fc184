// SPDX-License-Identifier: Apache-2.0

// Package handover is what two processes say to each other when one takes over from
// the other: messages with open files, over a Unix stream socket.
//
// It knows nothing of what is handed over. A message is a kind, some bytes and some
// files; it arrives whole, in order, or the connection is at its end.
package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// headerLen is a kind, three bytes of nothing, and the length of what follows.
	headerLen = 8

	// maxData bounds what the other side can make this one allocate.
	maxData = 1 << 20

	// maxFiles is SCM_MAX_FD, the most that the kernel passes at once.
	maxFiles = 253

	// writeTime is for a message to be taken: the other side reads all the time.
	writeTime = 10 * time.Second
)

// Conn is one end. Sending is safe for concurrent use; receiving is one goroutine's.
type Conn struct {
	c  *net.UnixConn
	mu sync.Mutex // of sending
}

// New takes a connection over.
func New(c *net.UnixConn) *Conn { return &Conn{c: c} }

// Close ends it: the other side hears io.EOF after what was sent.
func (c *Conn) Close() error { return c.c.Close() }

// SetReadDeadline bounds [Conn.Receive].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.c.SetReadDeadline(t) }

// Send sends a message. The files stay this process's: the other one gets descriptors
// of its own.
func (c *Conn) Send(kind byte, data []byte, files ...int) error {
	if len(data) > maxData || len(files) > maxFiles {
		return fmt.Errorf("hand over %d bytes with %d files: %d and %d are the most", len(data), len(files), maxData, maxFiles)
	}
	header := make([]byte, headerLen)
	header[0] = kind
	binary.BigEndian.PutUint32(header[4:], uint32(len(data)))
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	// The files go with the first byte, and a header is never cut.
	n, _, err := c.c.WriteMsgUnix(header, rights, nil)
	switch {
	case n == 0 && err != nil:
		return err // what the other side said before it went can be received still
	case n != headerLen:
		return errors.Join(err, io.ErrShortWrite, c.c.Close())
	case err != nil:
		return err
	}
	if len(data) == 0 {
		return nil // the other side has it all, and may be gone
	}
	_, err = c.c.Write(data)
	return err
}

// Receive waits for a message. The files are the caller's to close. The error is io.EOF
// when the other side is gone.
func (c *Conn) Receive() (kind byte, data []byte, files []*os.File, err error) {
	header := make([]byte, headerLen)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(header, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, nil, nil, err
	}
	if files, err = openFiles(oob[:oobn]); err != nil {
		return 0, nil, nil, err
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, nil, files, errors.New("receive what is handed over: not all files came; raise the limit of open files (LimitNOFILE, ulimit -n)")
	}
	if _, err := io.ReadFull(c.c, header[n:]); err != nil {
		return 0, nil, files, cut(err)
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxData {
		return 0, nil, files, fmt.Errorf("receive what is handed over: %d bytes in one message", size)
	}
	data = make([]byte, size)
	if _, err := io.ReadFull(c.c, data); err != nil {
		return 0, nil, files, cut(err)
	}
	return header[0], data, files, nil
}

// cut is the end in the middle of a message.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func openFiles(oob []byte) ([]*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive files: %w", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, which nobody asked for
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a descriptor that nobody uses
	}
}
