// SPDX-License-Identifier: Apache-2.0

package doq

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"sotto/forwarder/upstream/quicdial"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/streams"
	"sotto/forwarder/upstream/transport"
)

// alpn is the protocol name of DNS over QUIC in the IANA registry.
const alpn = "doq"

// Error codes (RFC 9250 §4.3).
const (
	noError          = 0x0
	protocolError    = 0x2
	requestCancelled = 0x3
	excessiveLoad    = 0x4
)

// loadPause is how long a server that reports excessive load gets no query.
const loadPause = time.Second

// errLoad is the cause of a [streams.PauseError].
var errLoad = errors.New("the server is overloaded (DOQ_EXCESSIVE_LOAD)")

// errViolated closes a connection whose server violated the protocol. It concerns the other
// queries on the connection, which are sent again.
var errViolated = errors.New("the server violated DNS over QUIC")

// New returns a transport, which opens no connection before it is used.
func New(cfg transport.Config) *streams.Pool {
	dialer := secure.NewDialer(&cfg, alpn, true)
	return streams.New(cfg, dialer, func(ctx context.Context) (streams.Conn, error) {
		return open(ctx, &cfg, dialer)
	})
}

// conn is one connection.
type conn struct {
	quic     *quicdial.Conn
	draining chan struct{} // closed when the connection is lost

	mu     sync.Mutex
	closed bool           // no further goroutine is started
	ending sync.WaitGroup // goroutines that wait for FIN
}

// open opens a connection to the server. It may open no stream.
func open(ctx context.Context, cfg *transport.Config, d *secure.Dialer) (*conn, error) {
	const noStreams = -1
	q, err := quicdial.Dial(ctx, d, cfg, noStreams)
	if err != nil {
		return nil, err
	}
	c := &conn{quic: q, draining: make(chan struct{})}
	context.AfterFunc(q.Context(), func() { close(c.draining) })
	return c, nil
}

// RoundTrip implements [streams.Conn].
func (c *conn) RoundTrip(ctx context.Context, query []byte) ([]byte, error) {
	stream, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, c.classify(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() {
		stream.CancelRead(requestCancelled)
		stream.CancelWrite(requestCancelled)
	})
	defer stop()
	if err := send(stream, query); err != nil {
		stream.CancelRead(requestCancelled)
		return nil, c.classify(ctx, err)
	}
	reply, ended, err := receive(stream)
	if err != nil {
		stream.CancelRead(requestCancelled)
		return nil, c.classify(ctx, err)
	}
	if !ended {
		c.waitForEnd(stream)
	}
	if err := checkMessage(reply); err != nil {
		return nil, c.violation(err)
	}
	if reply, err = transport.AcceptReply(query, reply); err != nil {
		return nil, &streams.QueryError{Err: err}
	}
	return reply, nil
}

// classify returns an error of the connection or of a stream as [streams.Conn] defines it.
func (c *conn) classify(ctx context.Context, err error) error {
	var reset *quic.StreamError
	var violation *violationError
	switch {
	case errors.As(err, &violation):
		return c.violation(err)
	case c.quic.Context().Err() != nil:
		return c.lost(context.Cause(c.quic.Context()))
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &reset) && reset.ErrorCode == excessiveLoad:
		return &streams.PauseError{For: loadPause, Err: errLoad}
	case errors.Is(err, errEmpty):
		return &streams.QueryError{Err: err}
	case errors.As(err, &reset):
		return &streams.QueryError{Err: fmt.Errorf("%w (error %#x of DNS over QUIC)", streams.ErrReset, uint64(reset.ErrorCode))}
	}
	return c.lost(err)
}

// lost returns why the connection is lost. A server that closes it because of its load gets a
// pause.
func (c *conn) lost(cause error) error {
	var app *quic.ApplicationError
	if errors.As(cause, &app) && app.Remote && app.ErrorCode == excessiveLoad {
		return &streams.PauseError{For: loadPause, Err: errLoad}
	}
	return c.quic.Lost(cause)
}

// violation closes the connection, because the server violated the protocol (RFC 9250
// §4.3.3), and returns the error of the query that it concerns.
func (c *conn) violation(err error) error {
	c.quic.Close(errViolated, protocolError)
	return fmt.Errorf("%w: %w", transport.ErrMalformed, err)
}

// waitForEnd waits in the background until the server has ended the stream.
func (c *conn) waitForEnd(stream *quic.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.ending.Go(func() {
		if err := readEnd(stream); err != nil {
			_ = c.violation(err) // the reply is used already
		}
	})
}

// Draining implements [streams.Conn].
func (c *conn) Draining() <-chan struct{} { return c.draining }

// Failure implements [streams.Conn].
func (c *conn) Failure() error { return c.quic.Failure() }

// Heard implements [streams.Conn].
func (c *conn) Heard() int64 { return c.quic.Heard() }

// Acknowledged implements [streams.Conn].
func (c *conn) Acknowledged(sent int64) bool { return c.quic.Acknowledged(sent) }

// Addrs implements [streams.Conn].
func (c *conn) Addrs() (local, remote netip.AddrPort) { return c.quic.Addrs() }

// Close implements [streams.Conn].
func (c *conn) Close(reason error) {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.quic.Close(reason, noError)
	c.ending.Wait()
}
