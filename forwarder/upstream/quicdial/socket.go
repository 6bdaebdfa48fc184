// SPDX-License-Identifier: Apache-2.0

package quicdial

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sotto/forwarder/upstream/transport"
)

// socket is a UDP socket that is connected to the server. It implements
// [net.PacketConn] for quic-go, which takes it for a connection without the interfaces of
// the kernel's segmentation: messages of DNS are small. Its buffers keep their sizes.
type socket struct {
	conn   *net.UDPConn
	remote net.Addr
	heard  atomic.Int64 // when the latest packet arrived, in ticks; 0 if none did
}

// newSocket returns a socket that is connected to that address. control, unless nil, is
// called before it connects.
func newSocket(ctx context.Context, control func(string, string, syscall.RawConn) error, addr netip.AddrPort) (*socket, error) {
	dialer := net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if control != nil {
			if err := control(network, address, c); err != nil {
				return err
			}
		}
		return dontFragment(network, c)
	}}
	c, err := dialer.DialContext(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	udp := c.(*net.UDPConn)
	return &socket{conn: udp, remote: udp.RemoteAddr()}, nil
}

// dontFragment sets that packets are not fragmented (RFC 9000 §14).
func dontFragment(network string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		if network == "udp6" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}

// ReadFrom implements [net.PacketConn].
func (s *socket) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := s.conn.Read(p)
	if err == nil {
		s.heard.Store(transport.Ticks(time.Now()))
	}
	return n, s.remote, err
}

// WriteTo implements [net.PacketConn].
func (s *socket) WriteTo(p []byte, _ net.Addr) (int, error) { return s.conn.Write(p) }

// Close implements [net.PacketConn].
func (s *socket) Close() error { return s.conn.Close() }

// LocalAddr implements [net.PacketConn].
func (s *socket) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// SetDeadline implements [net.PacketConn].
func (s *socket) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// SetReadDeadline implements [net.PacketConn].
func (s *socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline implements [net.PacketConn].
func (s *socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// SetReadBuffer keeps the size of the buffer.
func (s *socket) SetReadBuffer(int) error { return nil }

// SetWriteBuffer keeps the size of the buffer.
func (s *socket) SetWriteBuffer(int) error { return nil }
