// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// busyLoad is how many queries in flight make a connection busy enough for
	// another one: replies behind a lost packet would wait for that many.
	busyLoad = 64

	// maxResends bounds how often one query is sent to one server again, after
	// connections that worked were closed with it in flight. A server that closes
	// each after a hundred queries and then resets it, as dnsdist may, lets a query
	// among a hundred in flight be unlucky five times in a row.
	maxResends = 16

	// dialPause is how long a failed dial speaks for the next ones. While every
	// server is down, each query tries; this keeps a busy machine from dialling
	// thousands of times a second.
	dialPause = 250 * time.Millisecond
)

// pool is the DNS-over-TLS transport: the connections to one server.
type pool struct {
	cfg    *Config
	log    *slog.Logger
	server Server
	verify *verifier
	count  *serverCounters
	wg     *sync.WaitGroup // dials and connections
	// failed is told of every dial that failed, with when it began.
	failed func(began time.Time, err error)
	// nudge has [transport.keep] called soon.
	nudge func()

	slowOpen atomic.Bool // no TCP Fast Open

	mu        sync.Mutex
	conns     []*conn
	dialing   *dial // in progress, nil otherwise
	dialErr   error // of the latest dial, if it failed
	dialErrAt time.Time
	sessions  map[netip.AddrPort]*sessions
	limit     queryLimit
	best      netip.AddrPort // the address that worked last; zero: none yet
	untrusted string         // why the latest connection is to a server not authenticated
	lastWarm  time.Time      // when keep dialled last
	looking   bool           // keep is to be called again soon
	closed    bool
}

// exchange asks, and asks again when a connection proves to be stale.
func (p *pool) exchange(ctx context.Context, query []byte, until time.Time, w *waiter) ([]byte, error) {
	began := time.Now()
	for resends := 0; ; {
		c, err := p.conn(ctx, until, w)
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		reply, err := c.exchange(ctx, query, until, w)
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, errGone):
			// It ended after it was picked; it will not be picked again.
		case isLost(err) && resends < maxResends && (c.proven(sent) || errors.Is(err, errNetwork)):
			resends++
			p.count.resent.Add(1)
		case isTimeout(err) && c.answeredSince(began):
			return nil, errSlow
		default:
			return nil, err
		}
		if !time.Now().Before(until) {
			return nil, errTimeout
		}
	}
}

// errSlow is a query that timed out while others on its connection did not: the
// name is slow, not the server.
var errSlow error = &slowError{}

type slowError struct{}

func (*slowError) Error() string        { return errTimeout.Error() }
func (*slowError) Is(target error) bool { return target == errTimeout }

// conn picks the connection for a query, and waits for one that is being opened
// if there is none.
func (p *pool) conn(ctx context.Context, until time.Time, w *waiter) (*conn, error) {
	for {
		c, d, err := p.pick(ctx)
		if c != nil || err != nil {
			return c, err
		}
		if err := w.await(ctx, d.done, time.Now(), until, nil); err != nil {
			return nil, err
		}
		// Everybody who waited for a dial shares its failure, but not that of
		// one which was cut short by a change of the network.
		if d.err != nil && !errors.Is(d.err, errNetwork) {
			return nil, d.err
		}
	}
}

// pick returns the least busy connection or, if there is none, the dial to wait
// for. A connection that is busy has another one opened beside it, and so have those
// that are half used up.
func (p *pool) pick(ctx context.Context) (*conn, *dial, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	var best *conn
	live, fresh := 0, 0
	for _, c := range p.conns {
		if c.retired.Load() {
			continue
		}
		live++
		if !c.worn.Load() {
			fresh++
		}
		if best == nil || c.load.Load() < best.load.Load() {
			best = c
		}
	}
	if best == nil {
		if p.dialing == nil && p.dialErr != nil && time.Since(p.dialErrAt) < dialPause {
			return nil, nil, p.dialErr
		}
		return nil, p.dial(ctx), nil
	}
	busy := best.load.Load() >= busyLoad && live < p.cfg.MaxConns
	if (busy || fresh == 0) && p.dialing == nil && time.Since(p.dialErrAt) > dialPause {
		p.dial(ctx)
	}
	return best, nil, nil
}

// gone takes a connection off the list, and has the warm keeper look whether to
// open another.
func (p *pool) gone(c *conn) {
	cutAfter, cause := c.obituary()
	p.mu.Lock()
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	p.limit.cut(cutAfter, time.Now())
	p.mu.Unlock()
	p.log.Debug("connection ended", "server", p.server.String(), "err", cause)
	p.nudge()
}

// reset ends every connection, and the dial in progress: the network changed.
func (p *pool) reset() {
	p.mu.Lock()
	p.dialErr = nil
	p.best, p.limit = netip.AddrPort{}, queryLimit{} // they were that network's
	p.mu.Unlock()
	p.endAll(errNetwork)
}

// close ends every connection, and lets no other be opened.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.endAll(ErrClosed)
}

// endAll ends what is open or being opened.
func (p *pool) endAll(err error) {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	d := p.dialing
	p.mu.Unlock()
	if d != nil {
		d.cancel(err)
	}
	for _, c := range conns {
		c.end(err)
	}
}

// stats enters the connections into s.
func (p *pool) stats(s *ServerStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Conns, s.Unauthenticated = len(p.conns), p.untrusted
	for _, c := range p.conns {
		s.InFlight += int(c.load.Load())
	}
}
