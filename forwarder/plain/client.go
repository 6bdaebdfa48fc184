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
	// network namespace. It returns the error of open. It is called for each query, so sockets
	// are not reused.
	Open func(open func() error) error

	// Log receives what operators should know. Nil: nothing is logged.
	Log *slog.Logger
}

// Client sends queries to nameservers. Between queries it keeps only sockets, for about
// a second. It is safe for concurrent use. The caller limits the number of queries in
// flight.
type Client struct {
	dialer net.Dialer
	open   func(open func() error) error
	log    *slog.Logger
	warn   ratelog.Limiter // forged replies, which anyone may send

	reuse bool // of sockets for UDP
	pool  pool
	life  time.Duration // of a socket in pool
	uses  func() int    // number of queries of a new socket

	idle, maxTransfer time.Duration
	resend            []time.Duration
}

// New returns a Client.
func New(cfg Config) *Client {
	reuse := cfg.Open == nil
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
		reuse:  reuse, life: socketLife, uses: randomUses,
		idle: transferIdle, maxTransfer: maxTransferTime,
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

// Close closes the idle sockets. Queries that are in flight, or sent later, close their own.
func (c *Client) Close() { c.pool.close() }

// NetworkChanged handles a change of addresses or routes: sockets are not reused, since they
// would keep their local address.
func (c *Client) NetworkChanged() { c.pool.reset() }

// Exchange sends a client's message to the nameserver and returns its reply with ID 0.
// The caller owns the reply. A truncated reply over UDP is returned as it is, so that
// the client retries over TCP. The query is neither changed nor kept. owner identifies the
// client: those with different owners never share a socket.
func (c *Client) Exchange(ctx context.Context, to netip.AddrPort, owner uint64, query []byte, tcp bool, until time.Time) ([]byte, error) {
	r := &request{c: c, to: to, owner: owner, network: "udp", start: time.Now(), until: until}
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
	owner   uint64
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
	r.setRandomID()
	return nil
}

func (r *request) setRandomID() {
	_, _ = rand.Read(r.message()[:2]) // its error is always nil
}

// message returns the query without its length field.
func (r *request) message() []byte { return r.query[wire.FrameHeaderLen:] }

// dial opens a socket. If there are too many open files, it closes those in the pool.
func (r *request) dial(ctx context.Context) (net.Conn, error) {
	conn, err := r.dialOnce(ctx)
	if isAny(err, syscall.EMFILE, syscall.ENFILE) && r.c.pool.reset() > 0 {
		return r.dialOnce(ctx)
	}
	return conn, err
}

func (r *request) dialOnce(ctx context.Context) (conn net.Conn, err error) {
	d := r.c.dialer
	d.Deadline = r.until
	err = r.c.open(func() (err error) {
		conn, err = d.DialContext(ctx, r.network, r.to.String())
		return err
	})
	return conn, err
}

// failWith makes the operations of a connection fail once ctx is cancelled. stop ends that; it
// reports false if ctx was cancelled before.
func failWith(ctx context.Context, conn net.Conn) (stop func() bool) {
	past := time.Unix(1, 0)
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
}

// setDeadline sets a deadline with one of a connection's methods.
func setDeadline(ctx context.Context, set func(time.Time) error, until time.Time) error {
	if err := set(until); err != nil {
		return err
	}
	// If ctx was cancelled before, set has replaced the deadline of failWith.
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
