// SPDX-License-Identifier: Apache-2.0

package doh3

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"sotto/forwarder/upstream/httpdns"
	"sotto/forwarder/upstream/quicdial"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/streams"
	"sotto/forwarder/upstream/transport"
)

const (
	// maxHeader limits the header of a response in bytes.
	maxHeader = 64 << 10

	// maxStreams is the number of streams that a server needs: one for control and two for
	// QPACK (RFC 9114 §6.2), and a few that have no meaning.
	maxStreams = 8
)

// New returns a transport, which opens no connection before it is used. The path of
// cfg.Server has to be valid.
func New(cfg transport.Config) (*streams.Pool, error) {
	endpoint, err := httpdns.New(cfg.Server)
	if err != nil {
		return nil, err
	}
	dialer := secure.NewDialer(&cfg, http3.NextProtoH3, true)
	return streams.New(cfg, dialer, func(ctx context.Context) (streams.Conn, error) {
		return open(ctx, &cfg, dialer, endpoint)
	}), nil
}

// conn is one HTTP/3 connection.
type conn struct {
	quic     *quicdial.Conn
	http     *http3.ClientConn
	endpoint *httpdns.Endpoint

	once     sync.Once
	draining chan struct{}
}

// open opens a connection to the server.
func open(ctx context.Context, cfg *transport.Config, d *secure.Dialer, e *httpdns.Endpoint) (*conn, error) {
	q, err := quicdial.Dial(ctx, d, cfg, maxStreams)
	if err != nil {
		return nil, err
	}
	t := &http3.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxHeader}
	c := &conn{quic: q, http: t.NewClientConn(q.Conn), endpoint: e, draining: make(chan struct{})}
	context.AfterFunc(q.Context(), c.drain)
	return c, nil
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

// classify returns an error of the HTTP connection as [streams.Conn] defines it.
func (c *conn) classify(ctx context.Context, err error) error {
	var query *streams.QueryError
	var pause *streams.PauseError
	var reset *quic.StreamError
	switch {
	case errors.As(err, &query), errors.As(err, &pause):
		return err
	case c.quic.Failure() != nil:
		return c.quic.Failure()
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &reset) && reset.ErrorCode == quic.StreamErrorCode(http3.ErrCodeRequestRejected):
		c.drain()
		return streams.ErrRefused
	case errors.As(err, &reset):
		return &streams.QueryError{Err: fmt.Errorf("%w (error %#x of HTTP/3)", streams.ErrReset, uint64(reset.ErrorCode))}
	}
	// The server announced that it closes the connection (GOAWAY), or violated the protocol.
	c.drain()
	return streams.ErrRefused
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
	c.quic.Close(reason, quic.ApplicationErrorCode(http3.ErrCodeNoError))
}
