// SPDX-License-Identifier: Apache-2.0

package doh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/httpdns"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/streams"
	"sotto/forwarder/upstream/transport"
)

// alpn is the protocol name of HTTP/2 over TLS in the IANA registry.
const alpn = "h2"

// maxHeader limits the header of a response in bytes.
const maxHeader = 64 << 10

// New returns a transport, which opens no connection before it is used. The path of
// cfg.Server has to be valid.
func New(cfg transport.Config) (*streams.Pool, error) {
	endpoint, err := httpdns.New(cfg.Server)
	if err != nil {
		return nil, err
	}
	dialer := secure.NewDialer(&cfg, alpn, true)
	return streams.New(cfg, dialer, func(ctx context.Context) (streams.Conn, error) {
		return open(ctx, dialer, endpoint)
	}), nil
}

// conn is one HTTP/2 connection.
type conn struct {
	http     *http.ClientConn
	endpoint *httpdns.Endpoint
	raw      *socket
	refusal  func(error) error

	once     sync.Once
	draining chan struct{}
}

// open opens a connection to the server.
func open(ctx context.Context, d *secure.Dialer, e *httpdns.Endpoint) (*conn, error) {
	t, err := d.DialTLS(ctx, func(c *net.TCPConn) (net.Conn, error) { return newSocket(c), nil })
	if err != nil {
		return nil, err
	}
	raw := t.Raw.(*socket)
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true) // without a negotiation of its own: ALPN is over
	h := &http.Transport{
		DialTLSContext:         func(context.Context, string, string) (net.Conn, error) { return session{t.Conn, raw}, nil },
		Protocols:              protocols,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	cc, err := h.NewClientConn(ctx, "https", t.Handshake.Addr.String())
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	d.Connected(t.Handshake, t.ConnectionState())
	c := &conn{
		http: cc, endpoint: e, raw: raw, draining: make(chan struct{}),
		refusal: func(err error) error { return d.Verifier.Refusal(t.Handshake, err) },
	}
	cc.SetStateHook(func(cc *http.ClientConn) { c.checkState() })
	c.checkState() // it may have changed before
	return c, nil
}

// checkState closes draining if the connection accepts no more requests.
func (c *conn) checkState() {
	if c.http.Err() != nil {
		c.drain()
	}
}

// drain closes draining.
func (c *conn) drain() { c.once.Do(func() { close(c.draining) }) }

// RoundTrip implements [streams.Conn].
func (c *conn) RoundTrip(ctx context.Context, query []byte) ([]byte, error) {
	reply, err := c.endpoint.Exchange(ctx, query, c.http.RoundTrip)
	if err == nil {
		return reply, nil
	}
	return nil, c.classify(ctx, err)
}

// streamError has the fields of the errors of package net/http for a stream, which converts
// them to it.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("error %d of HTTP/2", e.Code) }

// refusedStream is the code of a stream that the server did not process (RFC 9113 §8.7).
const refusedStream = 7

// classify returns an error of the HTTP connection as [streams.Conn] defines it.
func (c *conn) classify(ctx context.Context, err error) error {
	var query *streams.QueryError
	var pause *streams.PauseError
	var stream streamError
	switch {
	case errors.As(err, &query), errors.As(err, &pause):
		return err
	case errors.As(err, &stream) && stream.Code == refusedStream:
		return streams.ErrRefused
	case errors.As(err, &stream):
		return &streams.QueryError{Err: fmt.Errorf("%w (%w)", streams.ErrReset, stream)}
	case ctx.Err() != nil:
		return ctx.Err()
	}
	switch failure := c.Failure(); {
	case failure != nil:
		return failure
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &streams.QueryError{Err: fmt.Errorf("%w: it ends too early", transport.ErrMalformed)}
	}
	// The server announced that it closes the connection (GOAWAY), or violated the protocol.
	c.drain()
	return streams.ErrRefused
}

// Draining implements [streams.Conn].
func (c *conn) Draining() <-chan struct{} { return c.draining }

// Failure implements [streams.Conn].
func (c *conn) Failure() error {
	if err := c.raw.failure(); err != nil {
		return c.refusal(err)
	}
	return nil
}

// Heard implements [streams.Conn].
func (c *conn) Heard() int64 { return c.raw.heard.Load() }

// Acknowledged implements [streams.Conn]: TCP knows it of all that was sent.
func (c *conn) Acknowledged(int64) bool {
	raw, err := c.raw.SyscallConn()
	return err == nil && secure.Acknowledged(raw)
}

// Addrs implements [streams.Conn].
func (c *conn) Addrs() (local, remote netip.AddrPort) {
	return addrPort(c.raw.LocalAddr()), addrPort(c.raw.RemoteAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Close implements [streams.Conn]. On a dead path the message by which TLS closes a
// connection could block.
func (c *conn) Close(reason error) {
	if errors.Is(reason, transport.ErrSilent) || errors.Is(reason, transport.ErrNetworkChanged) {
		_ = c.raw.Close()
	}
	_ = c.http.Close()
}

// session is the TLS connection on a socket. It records why reading failed: an alert, or the error
// of the socket.
type session struct {
	*tls.Conn
	raw *socket
}

// Read implements [net.Conn].
func (s session) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		s.raw.fail(err)
	}
	return n, err
}

// writeGrace is how long the error of a write waits for what the server has sent.
const writeGrace = time.Second

// socket records when data arrived, and why reading failed.
type socket struct {
	*net.TCPConn
	heard atomic.Int64 // in ticks
	err   atomic.Pointer[error]

	once  sync.Once
	ended chan struct{} // closed when reading has failed, or the socket is closed
}

func newSocket(c *net.TCPConn) *socket { return &socket{TCPConn: c, ended: make(chan struct{})} }

func (s *socket) end() { s.once.Do(func() { close(s.ended) }) }

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	if n > 0 {
		s.heard.Store(transport.Ticks(time.Now()))
	}
	if err != nil {
		s.fail(err)
	}
	return n, err
}

// fail records the first reason why reading failed.
func (s *socket) fail(err error) {
	s.err.CompareAndSwap(nil, &err)
	s.end()
}

// Write implements [net.Conn]. A server that refuses the connection closes it after an alert with
// the reason. Package net/http closes the connection as soon as a write fails, which must not be
// before the alert was read.
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.TCPConn.Write(p)
	if err != nil {
		select {
		case <-s.ended:
		case <-time.After(writeGrace):
		}
	}
	return n, err
}

// Close implements [net.Conn].
func (s *socket) Close() error {
	s.end()
	return s.TCPConn.Close()
}

// ReadFrom hides the method of [net.TCPConn], which copies from files.
func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{s}, r)
}

// failure returns why reading failed; nil if it did not.
func (s *socket) failure() error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}
