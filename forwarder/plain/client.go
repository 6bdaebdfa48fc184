// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"sotto/forwarder/wire"
)

const (
	// DefaultMaxInflight leaves most of the usual limit of open files (1024 soft,
	// which Go raises to the hard one) to others.
	DefaultMaxInflight = 1024

	// transferShare is the part of MaxInflight that transfers may take: they last.
	transferShare = 4

	// transferIdle is how long a server may be silent inside a transfer.
	transferIdle = 10 * time.Second

	// transferMost ends a transfer that is kept going by a byte now and then.
	transferMost = time.Hour

	// warnEvery is how often forgery is logged, which anyone may cause.
	warnEvery = time.Minute
)

// Config is what a [Client] is made of.
type Config struct {
	// Control, if set, is called with every socket before it connects, to mark
	// it as Sotto's own.
	Control func(network, address string, c syscall.RawConn) error

	// MaxInflight bounds the queries under way; 0: [DefaultMaxInflight].
	MaxInflight int

	// Log gets what an operator has to know. Nil: nothing is logged.
	Log *slog.Logger
}

// Client asks nameservers. It holds nothing between queries, so there is nothing to
// close. It is safe for concurrent use.
type Client struct {
	dialer    net.Dialer
	log       *slog.Logger
	queries   slots
	transfers slots
	warned    atomic.Int64 // when forgery was logged, Unix time in ns

	idle, most time.Duration // of a transfer
	resend     []time.Duration
}

// New returns a Client.
func New(cfg Config) (*Client, error) {
	if cfg.MaxInflight < 0 {
		return nil, fmt.Errorf("make a plain DNS client: Config.MaxInflight is %d: want 0 (the default) or more", cfg.MaxInflight)
	}
	if cfg.MaxInflight == 0 {
		cfg.MaxInflight = DefaultMaxInflight
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		dialer: net.Dialer{KeepAlive: -1}, // no connection lives long enough
		log:    cfg.Log,
		idle:   transferIdle, most: transferMost,
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
	c.queries.most = int64(cfg.MaxInflight)
	c.transfers.most = max(1, int64(cfg.MaxInflight)/transferShare)
	return c, nil
}

// slots are how many may do something at once.
type slots struct {
	most  int64
	taken atomic.Int64
}

func (s *slots) take() bool {
	if s.taken.Add(1) > s.most {
		s.taken.Add(-1)
		return false
	}
	return true
}

func (s *slots) give() { s.taken.Add(-1) }

// Exchange sends a client's message to the nameserver and returns its reply, which
// becomes the caller's, with ID 0. Over UDP a truncated reply is returned as that:
// the client is to come over TCP. The query is neither changed nor kept.
func (c *Client) Exchange(ctx context.Context, to netip.AddrPort, query []byte, tcp bool, until time.Time) ([]byte, error) {
	a := &asking{c: c, to: to, network: "udp", began: time.Now(), until: until}
	if tcp {
		a.network = "tcp"
	}
	if !c.queries.take() {
		return nil, a.failed(ErrOverloaded)
	}
	defer c.queries.give()
	if err := a.take(query); err != nil {
		return nil, a.failed(err)
	}
	exchange := a.overUDP
	if tcp {
		exchange = a.overTCP
	}
	reply, err := exchange(ctx)
	if err != nil {
		return nil, a.failed(contextError(ctx, err))
	}
	wire.SetID(reply, 0)
	return reply, nil
}

// asking is one query on its way.
type asking struct {
	c       *Client
	to      netip.AddrPort
	network string
	query   []byte // with the ID that is sent, behind two bytes for its length
	began   time.Time
	until   time.Time
}

// take copies the client's message under an ID of its own.
func (a *asking) take(query []byte) error {
	switch {
	case !a.to.IsValid() || a.to.Port() == 0:
		return errNowhere
	case len(query) < wire.HeaderLen || len(query) > wire.MaxMessage || query[2]&bitQR != 0:
		return errNoQuery
	}
	a.to = netip.AddrPortFrom(a.to.Addr().Unmap(), a.to.Port())
	a.query = appendFrame(make([]byte, 0, frameLen+len(query)), query)
	_, err := rand.Read(a.message()[:2])
	return err // always nil: rand.Read ends the program instead
}

// message is the query as it is sent, without TCP's length in front.
func (a *asking) message() []byte { return a.query[frameLen:] }

// dial opens the socket, which ends with the context.
func (a *asking) dial(ctx context.Context) (net.Conn, func(), error) {
	d := a.c.dialer
	d.Deadline = a.until
	conn, err := d.DialContext(ctx, a.network, a.to.String())
	if err != nil {
		return nil, nil, err
	}
	past := time.Unix(1, 0)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	return conn, func() { stop(); _ = conn.Close() }, nil
}

// limit sets, with one of a connection's functions for that, by when what comes
// next has to be done.
func limit(ctx context.Context, set func(time.Time) error, until time.Time) error {
	if err := set(until); err != nil {
		return err
	}
	// The context's end may have set its own deadline before this one.
	return ctx.Err()
}

// contextError is the context's error if its end is why there is another one.
func contextError(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil && isTimeout(err) {
		return e
	}
	return err
}

// warnForged logs that somebody sends replies to what was not asked.
func (a *asking) warnForged() {
	now := time.Now().UnixNano()
	last := a.c.warned.Load()
	if (last == 0 || now-last > int64(warnEvery)) && a.c.warned.CompareAndSwap(last, now) {
		a.c.log.Warn("replies in plain DNS that match no query: somebody may be forging them", "nameserver", a.to)
	}
}
