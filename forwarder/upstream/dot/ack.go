// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// acker reads from a TCP socket, and makes the kernel send pending acknowledgements before
// it waits for more data.
//
// A server that does not disable Nagle's algorithm (RFC 896), such as nsd, sends a reply
// only when the previous one was acknowledged. The kernel delays an acknowledgement by up
// to 40 ms because the next query may carry it. Each reply would then wait for the next
// query, and the second flight of a handshake for no reason.
type acker struct {
	net.Conn
	raw syscall.RawConn

	// expectsData reports whether the server may be waiting for an acknowledgement before
	// it sends pending data; nil means always. It is set before concurrent use.
	expectsData func() bool

	// The arguments and results of one read. step is a field because a closure for each
	// read would allocate.
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

// tryRead reads without blocking. If there is no data, it makes the kernel acknowledge the
// data that was read before, and returns false.
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
		if a.expectsData == nil || a.expectsData() {
			// This sends the acknowledgement that is pending, if any (tcp(7)).
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		}
		return false
	}
}

// Read implements [net.Conn]. It is called by one goroutine at a time.
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
