// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/durations"
)

const (
	// busyLoad is the number of queries in flight at which a second connection is worth
	// opening: replies behind a lost packet delay that many.
	busyLoad = 64

	// maxResends limits how often one query is sent to one server again after
	// connections that worked were closed with it in flight. A server that closes each
	// connection after a hundred queries and then resets it, as dnsdist may, can lose one
	// of a hundred queries five times in a row.
	maxResends = 16

	// dialPause is how long a failed dial also fails the queries that follow. While every
	// server is down each query tries to dial; this limits the rate on a busy machine.
	dialPause = 250 * time.Millisecond
)

// Pool is a [transport.Transport]: the connections to one DNS-over-TLS server.
type Pool struct {
	cfg    transport.Config
	verify *verifier
	count  counters
	wg     sync.WaitGroup // dials and connections

	noFastOpen atomic.Bool // TCP Fast Open failed

	mu        sync.Mutex
	conns     []*conn
	dialing   *pendingDial // nil if no dial is in progress
	dialErr   error        // of the latest dial, nil if it succeeded
	dialErrAt time.Time
	sessions  map[netip.AddrPort]*sessions
	limit     queryLimit
	lastAddr  netip.AddrPort // the address that worked last; zero if none did yet
	untrusted string         // why the server of the latest connection is not authenticated
	protocol  string         // of the latest connection
	expiry    time.Time      // of its server's certificate
	lastWarm  time.Time      // when Maintain last opened a connection
	scheduled bool           // a timer will request maintenance
	closed    bool
}

var _ transport.Transport = (*Pool)(nil)

// counters are the live form of the counters in [transport.Stats].
type counters struct {
	late, resent, lost, strays, writes atomic.Uint64
	dials, dialErrors, resumed         atomic.Uint64
	opened                             durations.Histogram
}

// New returns a Pool, which opens no connection before it is used. The caller calls
// [Pool.Close].
func New(cfg transport.Config) *Pool {
	v := &verifier{server: cfg.Server, profile: cfg.Profile, roots: cfg.RootCAs, now: time.Now}
	if cfg.ClientCert != nil {
		v.clientCert = *cfg.ClientCert
	}
	return &Pool{cfg: cfg, verify: v}
}

// Exchange implements [transport.Transport]. It sends the query again if the connection
// turns out to be stale.
func (p *Pool) Exchange(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	started := time.Now()
	for resends := 0; ; {
		c, err := p.reserve(ctx, until, w)
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		reply, err := c.roundTrip(ctx, query, until, w)
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, errConnClosed):
			// It closed after it was picked, and will not be picked again.
		case transport.IsLost(err) && resends < maxResends && (c.proven(sent) || errors.Is(err, transport.ErrNetworkChanged)):
			resends++
			p.count.resent.Add(1)
		case transport.IsTimeout(err) && c.repliedSince(started):
			return nil, transport.ErrSlowName
		default:
			return nil, err
		}
		if !time.Now().Before(until) {
			return nil, transport.ErrTimeout
		}
	}
}

// reserve picks the connection for a query. If there is none, it waits for one that is
// being opened.
func (p *Pool) reserve(ctx context.Context, until time.Time, w transport.Waiter) (*conn, error) {
	for {
		c, d, err := p.pick(ctx)
		if c != nil || err != nil {
			return c, err
		}
		if err := w.Wait(ctx, d.done, time.Now(), until, nil); err != nil {
			return nil, err
		}
		// The failure of a dial fails all queries that waited for it, unless it was
		// canceled by a change of the network.
		if d.err != nil && !errors.Is(d.err, transport.ErrNetworkChanged) {
			return nil, d.err
		}
	}
}

// pick returns the least busy connection or, if there is none, the dial to wait for. It
// opens a second connection if this one is busy, or if all have used up half of their
// queries.
//
// The query is counted in the connection's load here, under p.mu: otherwise all queries
// of a burst would pick the same connection before the first of them is counted. The
// caller passes the connection to roundTrip, or calls release.
func (p *Pool) pick(ctx context.Context) (*conn, *pendingDial, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, transport.ErrClosed
	}
	var best *conn
	open, fresh := 0, 0
	for _, c := range p.conns {
		if c.draining.Load() {
			continue
		}
		open++
		if !c.halfUsed.Load() {
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
		return nil, p.startDial(ctx), nil
	}
	busy := best.load.Load() >= busyLoad && open < p.cfg.MaxConns
	if (busy || fresh == 0) && p.dialing == nil && time.Since(p.dialErrAt) > dialPause {
		p.startDial(ctx)
	}
	best.load.Add(1)
	return best, nil, nil
}

// remove removes a closed connection, and requests maintenance, which may open another. A
// server that refuses this client after the handshake counts as a failed dial, so that it is
// not dialled again at once.
func (p *Pool) remove(c *conn) {
	cutAfter, reason := c.closeReason()
	var refused *transport.ClientCertError
	isRefused := errors.As(reason, &refused)
	if isRefused {
		p.cfg.Observer.DialFailed(c.opened, reason)
	}
	p.mu.Lock()
	if isRefused {
		p.dialErr, p.dialErrAt = &transport.DialError{Err: reason}, time.Now()
	}
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	p.limit.recordCut(cutAfter, time.Now())
	p.mu.Unlock()
	p.cfg.Log.Debug("connection closed", "server", p.cfg.Server.String(), "reason", reason)
	p.cfg.Observer.MaintenanceDue()
}

// Reset implements [transport.Transport]. It closes all connections, cancels the dial in
// progress, and forgets what it found out about the old network.
func (p *Pool) Reset() {
	p.mu.Lock()
	p.dialErr = nil
	p.lastAddr, p.limit = netip.AddrPort{}, queryLimit{}
	p.mu.Unlock()
	p.closeConns(transport.ErrNetworkChanged)
}

// Close implements [transport.Transport].
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.closeConns(transport.ErrClosed)
	p.wg.Wait()
}

// closeConns closes all connections and cancels the dial in progress.
func (p *Pool) closeConns(reason error) {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	d := p.dialing
	p.mu.Unlock()
	if d != nil {
		d.cancel(reason)
	}
	for _, c := range conns {
		c.close(reason)
	}
}

// Stats implements [transport.Transport].
func (p *Pool) Stats() transport.Stats {
	s := transport.Stats{
		Late: p.count.late.Load(), Resent: p.count.resent.Load(), Lost: p.count.lost.Load(),
		Strays: p.count.strays.Load(), Writes: p.count.writes.Load(),
		Dials: p.count.dials.Load(), DialErrors: p.count.dialErrors.Load(), Resumed: p.count.resumed.Load(),
		Opened: p.count.opened.Counts(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Conns, s.Unauthenticated = len(p.conns), p.untrusted
	s.Protocol, s.CertExpiry = p.protocol, p.expiry
	for _, c := range p.conns {
		s.InFlight += int(c.load.Load())
	}
	return s
}
