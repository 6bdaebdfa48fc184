// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// acker reads from a TCP socket, and acknowledges what it has read before it waits
// for more that is owed.
//
// A server that leaves Nagle's algorithm on (RFC 896; nsd is one) sends a reply only
// when the one before it was acknowledged. The kernel delays an acknowledgement by
// up to 40 ms, since the next query may carry it: then each reply waits for the query
// after it, and the second flight of a handshake for nothing at all.
type acker struct {
	net.Conn
	raw syscall.RawConn

	// owes reports whether bytes are to be expected that may wait for an
	// acknowledgement; nil: they are. It is set before anything else reads.
	owes func() bool

	// What one read is about, for step, which is made once and allocates nothing.
	p     []byte
	n     int
	errno error
	step  func(fd uintptr) bool
}

func newAcker(c *net.TCPConn) (*acker, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	a := &acker{Conn: c, raw: raw}
	a.step = a.tryRead
	return a, nil
}

// tryRead reads what is there, or has what was read before acknowledged.
func (a *acker) tryRead(fd uintptr) bool {
	for {
		a.n, a.errno = unix.Read(int(fd), a.p)
		switch a.errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			return true
		}
		if a.owes == nil || a.owes() {
			// It sends the acknowledgement that is due, if one is (tcp(7)).
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		}
		return false
	}
}

// Read is [net.Conn]'s. It is called by one goroutine at a time.
func (a *acker) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	a.p = p
	err := a.raw.Read(a.step)
	a.p = nil
	switch {
	case err != nil:
		return 0, err
	case a.errno != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: a.LocalAddr(), Addr: a.RemoteAddr(), Err: os.NewSyscallError("read", a.errno)}
	case a.n == 0:
		return 0, io.EOF
	}
	return a.n, nil
}
