// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/durations"
)

// maxResends limits how often one query is sent to one server again after connections that worked
// were closed with it in flight. A server that closes each connection after a hundred queries and
// then resets it, as dnsdist may, can lose one of a hundred queries five times in a row.
const maxResends = 16

// Pool is a [transport.Transport]: the connections to one DNS-over-TLS server.
type Pool struct {
	cfg    transport.Config
	dialer *secure.Dialer
	count  counters
	conns  *conns.Set[*conn]
	quarantine

	mu    sync.Mutex
	limit queryLimit
}

var _ transport.Transport = (*Pool)(nil)

// alpn is the protocol name of DNS over TLS in the IANA registry. A server without ALPN
// is accepted as well.
const alpn = "dot"

// counters are the live form of the counters in [transport.Stats].
type counters struct {
	late, resent, lost, strays, writes atomic.Uint64
	lastReply                          atomic.Int64 // when the latest reply arrived, in Unix nanoseconds
	opened                             durations.Histogram
}

// New returns a Pool, which opens no connection before it is used. The caller calls
// [Pool.Close].
func New(cfg transport.Config) *Pool {
	p := &Pool{cfg: cfg}
	p.dialer = secure.NewDialer(&p.cfg, alpn, false)
	p.conns = conns.New(&p.cfg, p.cfg.WarmTime, &p.count.opened, p.open)
	return p
}

// Exchange implements [transport.Transport]. It sends the query again if the connection
// turns out to be stale.
func (p *Pool) Exchange(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	started := time.Now()
	var l losses
	if p.isConvict(query, started) {
		l.cuts, l.alone = suspicious, true
	}
	defer p.releaseLane(&l)
	for {
		var c *conn
		var err error
		if l.cuts < suspicious {
			c, err = p.conns.Reserve(ctx, until, w)
		} else {
			c, err = p.reserveLane(ctx, &l, until, w)
		}
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
		case transport.IsLost(err):
			if err := p.resend(ctx, c, &l, query, sent, until, w, err); err != nil {
				return nil, err
			}
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

// Maintain implements [transport.Transport]. It also opens a connection to replace the ones that
// have reached their maximum age.
func (p *Pool) Maintain(ctx context.Context, now time.Time, expected bool) {
	p.conns.Maintain(ctx, now, expected)
	for _, l := range p.openLanes() {
		l.Maintain(ctx, now, false)
	}
}

// Reset implements [transport.Transport]. It closes all connections, cancels the dial in
// progress, and forgets what it found out about the old network.
func (p *Pool) Reset() {
	p.mu.Lock()
	p.limit = queryLimit{}
	p.mu.Unlock()
	p.quarantine.reset()
	p.dialer.NetworkChanged()
	p.conns.Reset()
	for _, l := range p.openLanes() {
		l.Reset()
	}
}

// Close implements [transport.Transport].
func (p *Pool) Close() {
	p.conns.Close()
	lanes := p.closeLanes()
	p.conns.Wait()
	for _, l := range lanes {
		l.Wait()
	}
	p.dialer.Wait()
}

// Stats implements [transport.Transport].
func (p *Pool) Stats() transport.Stats {
	s := transport.Stats{
		Late: p.count.late.Load(), Resent: p.count.resent.Load(), Lost: p.count.lost.Load(),
		Strays: p.count.strays.Load(), Writes: p.count.writes.Load(),
		Opened: p.count.opened.Counts(),
	}
	p.dialer.AddStats(&s)
	p.conns.AddStats(&s)
	for _, l := range p.openLanes() {
		l.AddStats(&s)
	}
	return s
}

// open opens a connection.
func (p *Pool) open(ctx context.Context, closed func(*conn, error)) (*conn, error) {
	t, err := p.dialer.DialTLS(ctx, newGather)
	if err != nil {
		return nil, err
	}
	p.dialer.Connected(t.Handshake, t.ConnectionState())
	c := newConn(&p.cfg, t.Conn, t.Raw.(*gather), &p.count, func(c *conn) {
		cutAfter, reason := c.closeReason()
		p.mu.Lock()
		p.limit.recordCut(cutAfter, time.Now())
		p.mu.Unlock()
		closed(c, reason)
	})
	c.tap = newConnTap(p.cfg.Tap, t.Conn)
	c.refusal = func(err error) error { return p.dialer.Verifier.Refusal(t.Handshake, err) }
	p.mu.Lock()
	c.queryLimit = p.limit.at(time.Now())
	p.mu.Unlock()
	return c, nil
}
