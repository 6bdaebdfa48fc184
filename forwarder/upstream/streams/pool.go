// SPDX-License-Identifier: Apache-2.0

package streams

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/durations"
)

const (
	// maxResends limits how often one query is sent to one server again after
	// connections that worked were closed with it in flight.
	maxResends = 16

	// maxUnproven limits how often that happens after connections that refused the query
	// before they delivered a reply, as during a reload of the server.
	maxUnproven = 4

	// maxPause limits how long a server can ask for no queries.
	maxPause = 5 * time.Minute
)

// Open opens a connection to the server.
type Open func(ctx context.Context) (Conn, error)

// Pool is a [transport.Transport]: the connections to one server.
type Pool struct {
	cfg    transport.Config
	dialer *secure.Dialer
	dial   Open
	count  counters
	conns  *conns.Set[*entry]

	mu       sync.Mutex
	paused   *PauseError // the server asked for no queries until pauseEnd
	pauseEnd time.Time
}

var _ transport.Transport = (*Pool)(nil)

// counters are the live form of the counters in [transport.Stats].
type counters struct {
	late, resent, lost, strays, sent atomic.Uint64
	opened                           durations.Histogram
}

// New returns a Pool, which opens no connection before it is used. dialer is the one that
// open uses. The caller calls [Pool.Close].
func New(cfg transport.Config, dialer *secure.Dialer, open Open) *Pool {
	p := &Pool{cfg: cfg, dialer: dialer, dial: open}
	p.conns = conns.New(&p.cfg, p.cfg.WarmTime, &p.count.opened, p.open)
	return p
}

// Exchange implements [transport.Transport]. It sends the query again if the connection
// turns out to be stale, or if the server did not process it.
func (p *Pool) Exchange(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	started := time.Now()
	query = bytes.Clone(query) // a stream may outlive this call
	wire.SetID(query, 0)       // RFC 8484 §4.1, RFC 9250 §4.2.1
	wire.RemoveKeepalive(query)
	for resends, resets, unproven := 0, 0, 0; ; {
		if pause := p.pause(time.Now()); pause != nil {
			return nil, pause
		}
		e, err := p.conns.Reserve(ctx, until, w)
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		reply, err := e.exchange(ctx, query, sent, until, w)
		var failed *QueryError
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, ErrRefused) && resends < maxResends && (e.proven(sent) || unproven < maxUnproven):
			resends++
			if !e.proven(sent) {
				unproven++
			}
		case errors.Is(err, ErrRefused):
			return nil, &transport.LostError{Err: err}
		case transport.IsLost(err) && resends < maxResends && (e.proven(sent) || errors.Is(err, transport.ErrNetworkChanged)):
			resends++
			p.count.resent.Add(1)
		case errors.As(err, &failed) && resets == 0 && errors.Is(err, ErrReset):
			resets++
			p.count.resent.Add(1)
		case transport.IsTimeout(err) && e.replied.Load() > transport.Ticks(started):
			return nil, transport.ErrSlowName
		case failed != nil && e.replied.Load() > transport.Ticks(started):
			return nil, &transport.NameError{Err: err}
		default:
			p.recordPause(err)
			return nil, err
		}
		if !time.Now().Before(until) {
			return nil, transport.ErrTimeout
		}
	}
}

// ErrReset is the cause of a [QueryError] if the server reset the stream: the query is sent
// once more.
var ErrReset = errors.New("the server reset the stream of the query")

// exchange sends a query on this connection and waits for its reply.
func (e *entry) exchange(ctx context.Context, query []byte, now, until time.Time, w transport.Waiter) ([]byte, error) {
	k, ok := e.start(query, now)
	if !ok {
		e.release()
		return nil, ErrRefused
	}
	if err := w.Wait(ctx, k.done, now, until, &e.replied); err != nil {
		silent := transport.IsTimeout(err) && e.isSilent(now)
		switch abandoned := e.abandon(k); {
		case abandoned && silent:
			return nil, transport.ErrSilent
		case abandoned:
			return nil, err
		}
	}
	if k.err == nil {
		return k.reply, nil
	}
	if errors.Is(k.err, transport.ErrMismatch) || errors.Is(k.err, transport.ErrMalformed) {
		e.p.count.strays.Add(1)
	}
	if reason := e.reason(); reason != nil && isLost(k.err) {
		e.p.count.lost.Add(1)
		return nil, &transport.LostError{Err: reason}
	}
	return nil, k.err
}

// recordPause makes queries fail until the time that the server asked for.
func (p *Pool) recordPause(err error) {
	var pause *PauseError
	if !errors.As(err, &pause) || pause.For <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused, p.pauseEnd = pause, time.Now().Add(min(pause.For, maxPause))
}

// pause returns why the server gets no queries at that time, or nil.
func (p *Pool) pause(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == nil || !now.Before(p.pauseEnd) {
		return nil
	}
	return p.paused
}

// open opens a connection.
func (p *Pool) open(ctx context.Context, closed func(*entry, error)) (*entry, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	return newEntry(p, c, closed), nil
}

// Maintain implements [transport.Transport]. It also opens a connection to replace the ones that
// have reached their maximum age.
func (p *Pool) Maintain(ctx context.Context, now time.Time, expected bool) {
	p.conns.Maintain(ctx, now, expected && p.pause(now) == nil)
}

// Reset implements [transport.Transport].
func (p *Pool) Reset() {
	p.mu.Lock()
	p.paused = nil
	p.mu.Unlock()
	p.dialer.NetworkChanged()
	p.conns.Reset()
}

// Close implements [transport.Transport].
func (p *Pool) Close() {
	p.conns.Close()
	p.conns.Wait()
	p.dialer.Wait()
}

// Stats implements [transport.Transport].
func (p *Pool) Stats() transport.Stats {
	s := transport.Stats{
		Late: p.count.late.Load(), Resent: p.count.resent.Load(), Lost: p.count.lost.Load(),
		Strays: p.count.strays.Load(), Writes: p.count.sent.Load(), Opened: p.count.opened.Counts(),
	}
	p.dialer.AddStats(&s)
	p.conns.AddStats(&s)
	return s
}
