// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive detects that an idle connection is dead, so that it is reopened before a query
// needs it. It costs one packet per half minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}

// Conn is an authenticated TLS connection over TCP.
type Conn struct {
	*tls.Conn
	Handshake *Handshake
	// Raw is the connection below, as wrap returned it; see [Dialer.DialTLS].
	Raw net.Conn
}

// DialTLS opens a connection to one of the server's addresses. wrap, unless nil, returns
// what TLS reads from and writes to in place of the socket. Sockets are created in the
// process's network namespace, and have TCP_NODELAY, which is Go's default. The caller calls
// [Dialer.Connected] if it uses the connection.
func (d *Dialer) DialTLS(ctx context.Context, wrap func(*net.TCPConn) (net.Conn, error)) (*Conn, error) {
	c, h, err := Dial(ctx, d, func(ctx context.Context, h *Handshake) (*Conn, error) {
		return d.openTLS(ctx, h, wrap)
	}, func(c *Conn) { _ = c.Close() })
	if err != nil {
		return nil, err
	}
	c.Handshake = h
	return c, nil
}

// openTLS makes one attempt.
func (d *Dialer) openTLS(ctx context.Context, h *Handshake, wrap func(*net.TCPConn) (net.Conn, error)) (*Conn, error) {
	socket, err := d.dialTCP(ctx, h.Addr)
	if err != nil {
		return nil, err
	}
	var raw net.Conn = socket
	if wrap != nil {
		if raw, err = wrap(socket); err != nil {
			_ = socket.Close()
			return nil, err
		}
	}
	h.Started(unanswered(socket))
	c := tls.Client(raw, d.Verifier.Config(h))
	if err := c.HandshakeContext(ctx); err != nil {
		h.Stopped()
		_ = raw.Close()
		return nil, err
	}
	return &Conn{Conn: c, Raw: raw}, nil
}

// dialTCP connects to a server, through the proxy if there is one.
func (d *Dialer) dialTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	dialer := &net.Dialer{Control: d.control, KeepAliveConfig: keepAlive}
	if d.cfg.Proxy != nil {
		return d.cfg.Proxy.Dial(ctx, dialer, addr)
	}
	c, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// unanswered returns a function that reports whether the peer of a socket has accepted the
// connection and sent nothing since. It can also be called when the connection was reset,
// until the socket is closed.
func unanswered(c *net.TCPConn) func() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return func() bool { return false }
	}
	const synSent = 2 // TCP_SYN_SENT; with TCP Fast Open this is the state until the first reply
	info := func() (received uint64, connected bool) {
		_ = raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				received, connected = info.Bytes_received, info.State != synSent
			}
		})
		return received, connected
	}
	before, _ := info()
	return func() bool {
		now, connected := info()
		return connected && now-before <= 1 // the end of the stream counts as a byte
	}
}

// Acknowledged reports whether the peer's kernel has acknowledged everything that was sent on a TCP
// socket. Then the path works, and the server is slow, or hangs.
func Acknowledged(c syscall.RawConn) bool {
	var info *unix.TCPInfo
	err := c.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return err == nil && info != nil && info.Unacked == 0 && info.Notsent_bytes == 0
}

// control prepares a socket before it connects.
func (d *Dialer) control(network, address string, c syscall.RawConn) error {
	if d.cfg.Control != nil {
		if err := d.cfg.Control(network, address, c); err != nil {
			return err
		}
	}
	if d.FastOpen() {
		fastOpen(c)
	}
	return nil
}

// FastOpen reports whether TCP Fast Open is used.
func (d *Dialer) FastOpen() bool { return !d.noFastOpen.Load() }
