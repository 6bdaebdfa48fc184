// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/ratelog"
)

const (
	// transferIdle is the idle timeout between the messages of a zone transfer.
	transferIdle = 10 * time.Second

	// maxTransferTime limits a zone transfer, in case the server sends very slowly.
	maxTransferTime = time.Hour
)

// Config configures a [Client].
type Config struct {
	// Control, if set, is called with every socket before it connects, to mark
	// it as Sotto's own.
	Control func(network, address string, c syscall.RawConn) error

	// Open, if set, runs open, which opens a socket and connects it, for example in another
	// network namespace. It returns the error of open.
	Open func(open func() error) error

	// Log receives what operators should know. Nil: nothing is logged.
	Log *slog.Logger
}

// Client sends queries to nameservers. It has no state between queries, so there is
// nothing to close. It is safe for concurrent use. The caller limits the number of
// queries in flight.
type Client struct {
	dialer net.Dialer
	open   func(open func() error) error
	log    *slog.Logger
	warn   ratelog.Limiter // forged replies, which anyone may send

	idle, maxTransfer time.Duration
	resend            []time.Duration
}

// New returns a Client.
func New(cfg Config) *Client {
	if cfg.Open == nil {
		cfg.Open = func(open func() error) error { return open() }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		dialer: net.Dialer{KeepAlive: -1}, // connections are short
		open:   cfg.Open,
		log:    cfg.Log,
		idle:   transferIdle, maxTransfer: maxTransferTime,
		resend: resendAfter,
	}
	if cfg.Control != nil {
		c.dialer.Control = func(network, address string, rc syscall.RawConn) error {
			if err := cfg.Control(network, address, rc); err != nil {
				return &markError{err}
			}
			return nil
		}
	}
	return c
}

// Exchange sends a client's message to the nameserver and returns its reply with ID 0.
// The caller owns the reply. A truncated reply over UDP is returned as it is, so that
// the client retries over TCP. The query is neither changed nor kept.
func (c *Client) Exchange(ctx context.Context, to netip.AddrPort, query []byte, tcp bool, until time.Time) ([]byte, error) {
	r := &request{c: c, to: to, network: "udp", start: time.Now(), until: until}
	if tcp {
		r.network = "tcp"
	}
	if err := r.prepare(query); err != nil {
		return nil, r.failed(err)
	}
	run := r.overUDP
	if tcp {
		run = r.overTCP
	}
	reply, err := run(ctx)
	if err != nil {
		return nil, r.failed(contextError(ctx, err))
	}
	wire.SetID(reply, 0)
	return reply, nil
}

// request is one query in flight.
type request struct {
	c       *Client
	to      netip.AddrPort
	network string
	query   []byte // with its length field and the ID that is sent
	start   time.Time
	until   time.Time
}

// prepare copies the client's message and sets a random ID.
func (r *request) prepare(query []byte) error {
	switch {
	case !r.to.IsValid() || r.to.Port() == 0:
		return errBadAddress
	case len(query) < wire.HeaderLen || len(query) > wire.MaxMessage || query[2]&bitQR != 0:
		return errNotQuery
	}
	r.to = netip.AddrPortFrom(r.to.Addr().Unmap(), r.to.Port())
	r.query = wire.AppendFrame(make([]byte, 0, wire.FrameHeaderLen+len(query)), query)
	_, err := rand.Read(r.message()[:2])
	return err // always nil: if it fails, rand.Read crashes the program
}

// message returns the query without its length field.
func (r *request) message() []byte { return r.query[wire.FrameHeaderLen:] }

// dial opens a socket. Its operations fail once ctx is cancelled.
func (r *request) dial(ctx context.Context) (net.Conn, func(), error) {
	d := r.c.dialer
	d.Deadline = r.until
	var conn net.Conn
	err := r.c.open(func() (err error) {
		conn, err = d.DialContext(ctx, r.network, r.to.String())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	return conn, func() { stop(); _ = conn.Close() }, nil
}

// setDeadline sets a deadline with one of a connection's methods.
func setDeadline(ctx context.Context, set func(time.Time) error, until time.Time) error {
	if err := set(until); err != nil {
		return err
	}
	// If ctx was cancelled before, set has replaced the deadline of dial.
	return ctx.Err()
}

// contextError returns the context's error if err was caused by its cancellation,
// otherwise err.
func contextError(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil && isTimeout(err) {
		return e
	}
	return err
}

// warnForged logs that replies arrive that match no query.
func (r *request) warnForged() {
	if r.c.warn.Allow(time.Now()) {
		r.c.log.Warn("plain DNS replies do not match the query: they may be forged", "nameserver", r.to)
	}
}
