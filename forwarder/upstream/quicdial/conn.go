// SPDX-License-Identifier: Apache-2.0

package quicdial

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/transport"
)

const (
	// keepAlive is the interval of the packets that keep a connection open in NATs, whose
	// mappings for UDP may expire after 30 s, and at the server. The pool closes
	// connections that are not used.
	keepAlive = 20 * time.Second

	// idleTimeout is the time without any packet after which an unused connection is
	// dead. With the packets above it detects a path that no longer works.
	idleTimeout = 65 * time.Second
)

// Conn is an authenticated connection.
type Conn struct {
	*quic.Conn
	socket    *socket
	transport *quic.Transport
	verifier  *secure.Verifier
	handshake *secure.Handshake
	reason    atomic.Pointer[error] // of Close; nil before it
}

// Dial opens a connection to one of the server's addresses. maxStreams limits the
// unidirectional streams that the server may open.
func Dial(ctx context.Context, d *secure.Dialer, cfg *transport.Config, maxStreams int64) (*Conn, error) {
	c, h, err := secure.Dial(ctx, d, func(ctx context.Context, h *secure.Handshake) (*Conn, error) {
		return open(ctx, d, cfg, h, maxStreams)
	}, func(c *Conn) { c.Close(nil, 0) })
	if err != nil {
		return nil, err
	}
	d.Connected(h, c.ConnectionState().TLS)
	return c, nil
}

// open makes one attempt.
func open(ctx context.Context, d *secure.Dialer, cfg *transport.Config, h *secure.Handshake, maxStreams int64) (*Conn, error) {
	s, err := newSocket(ctx, cfg.Control, h.Addr)
	if err != nil {
		return nil, err
	}
	h.Started(func() bool { return s.heard.Load() == 0 })
	t := &quic.Transport{Conn: s}
	qc, err := t.Dial(ctx, s.remote, d.Verifier.Config(h), &quic.Config{
		HandshakeIdleTimeout:  cfg.DialTimeout,
		MaxIdleTimeout:        idleTimeout,
		KeepAlivePeriod:       keepAlive,
		MaxIncomingStreams:    -1,
		MaxIncomingUniStreams: maxStreams,
	})
	if err != nil {
		h.Stopped()
		_ = t.Close()
		_ = s.Close()
		return nil, Cause(err)
	}
	return &Conn{Conn: qc, socket: s, transport: t, verifier: d.Verifier, handshake: h}, nil
}

// Close closes the connection at once, with an error code of the application for the
// server, and releases its socket. It may be called more than once.
func (c *Conn) Close(reason error, code quic.ApplicationErrorCode) {
	if reason != nil {
		c.reason.CompareAndSwap(nil, &reason)
	}
	_ = c.CloseWithError(code, "")
	_ = c.transport.Close()
	_ = c.socket.Close()
}

// Lost returns why the connection is lost, for an error of one of its methods or streams: as
// it was closed, or as [Cause] describes it.
func (c *Conn) Lost(err error) error {
	if reason := c.reason.Load(); reason != nil {
		return *reason
	}
	return c.verifier.Refusal(c.handshake, Cause(err))
}

// Failure returns why the connection is lost; nil if it is open.
func (c *Conn) Failure() error {
	if c.Context().Err() == nil {
		return nil
	}
	return c.Lost(context.Cause(c.Context()))
}

// Heard returns when the latest packet arrived, in ticks.
func (c *Conn) Heard() int64 { return c.socket.heard.Load() }

// Acknowledged reports whether a packet arrived after that time, in ticks, at which the latest query
// was sent: a server acknowledges a query within 25 ms (RFC 9000 §18.2, max_ack_delay), and the
// query is sent again until it does.
func (c *Conn) Acknowledged(sent int64) bool { return c.Heard() > sent }

// Addrs returns the addresses of both ends.
func (c *Conn) Addrs() (local, remote netip.AddrPort) {
	return addrPort(c.socket.LocalAddr()), c.handshake.Addr
}

func addrPort(a net.Addr) netip.AddrPort {
	udp, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := udp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
