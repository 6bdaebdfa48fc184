// SPDX-License-Identifier: Apache-2.0

package takeover

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

// MaxSockets is the maximum number of sockets that a process can hand over: SCM_MAX_FD, the
// number of files that the kernel passes with one message.
const MaxSockets = 253

const (
	// headerLen is the size of a header: a kind, three unused bytes, and the length of the
	// data.
	headerLen = 8

	// maxData limits what the other side can make this one allocate.
	maxData = 1 << 20

	// sendTimeout limits the sending of a message. The other side reads all the time.
	sendTimeout = 10 * time.Second
)

// Conn is a connection that carries messages with open files over a Unix stream socket. A
// message is a kind, data and files. It arrives completely and in order, or the connection
// fails. Send is safe for concurrent use; Receive is not.
type Conn struct {
	c  *net.UnixConn
	mu sync.Mutex // serializes Send
}

// NewConn returns a Conn over c, which it takes over.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c: c} }

// Close closes the connection. The other side receives what was sent before, and then
// io.EOF.
func (c *Conn) Close() error { return c.c.Close() }

// SetReadDeadline sets the deadline of [Conn.Receive].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.c.SetReadDeadline(t) }

// Send sends a message. The other process gets duplicates of the files; the caller still
// closes its own.
func (c *Conn) Send(kind byte, data []byte, files ...int) error {
	if len(data) > maxData || len(files) > MaxSockets {
		return fmt.Errorf("send %d bytes with %d files: the maximum is %d and %d", len(data), len(files), maxData, MaxSockets)
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
	if err := c.c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	// The files are sent with the first byte. The kernel never splits a header.
	n, _, err := c.c.WriteMsgUnix(header, rights, nil)
	switch {
	case n == 0 && err != nil:
		return err // not closed: messages that were received before can still be read
	case n != headerLen:
		return errors.Join(err, io.ErrShortWrite, c.c.Close())
	case err != nil:
		return err
	}
	if len(data) == 0 {
		return nil // complete, even if the other side has closed the connection
	}
	_, err = c.c.Write(data)
	return err
}

// Receive waits for a message. The caller closes the files. The error is io.EOF if the
// other side has closed the connection.
func (c *Conn) Receive() (kind byte, data []byte, files []*os.File, err error) {
	header := make([]byte, headerLen)
	oob := make([]byte, unix.CmsgSpace(4*MaxSockets))
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
		return 0, nil, files, errors.New("receive a message: some of its files are missing: raise the limit of open files (LimitNOFILE, ulimit -n)")
	}
	if _, err := io.ReadFull(c.c, header[n:]); err != nil {
		return 0, nil, files, unexpectedEOF(err)
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxData {
		return 0, nil, files, fmt.Errorf("receive a message: its length of %d bytes is invalid", size)
	}
	data = make([]byte, size)
	if _, err := io.ReadFull(c.c, data); err != nil {
		return 0, nil, files, unexpectedEOF(err)
	}
	return header[0], data, files, nil
}

// unexpectedEOF converts the io.EOF of a message that ends early.
func unexpectedEOF(err error) error {
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
			continue // not files
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // closing a duplicate loses nothing
	}
}
