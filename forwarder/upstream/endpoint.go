// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
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
	// connections that worked were closed with it in flight.
	maxResends = 4

	// dialPause is how long a failed dial speaks for the next ones. While every
	// server is down, each query tries; this keeps a busy machine from dialling
	// thousands of times a second.
	dialPause = 250 * time.Millisecond

	// warnEvery is how often a server that comes and goes is worth a warning.
	warnEvery = time.Minute
)

// endpoint is one server: its connections and its health.
type endpoint struct {
	g      *Group
	server Server
	verify *verifier
	count  serverCounters

	// resting is health.until for the picker, in Unix nanoseconds; 0: healthy.
	resting atomic.Int64
	lastUse atomic.Int64 // the latest query, in Unix nanoseconds

	mu        sync.Mutex
	conns     []*conn
	dialing   *dial // in progress, nil otherwise
	health    health
	lastError string
	dialErr   error // of the latest dial, if it failed
	dialErrAt time.Time
	cache     tls.ClientSessionCache
	lastWarm  time.Time // the warm keeper's latest dial
	closed    bool
	warned    time.Time // when the latest warning was logged
	told      bool      // the log's latest word is that it fails
}

// ask gets the reply to a query from this server, until the deadline.
func (e *endpoint) ask(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	e.count.queries.Add(1)
	began := time.Now()
	e.lastUse.Store(began.UnixNano())
	if e.resting.Load() != 0 {
		e.claim(began)
	}
	reply, err := e.askUntil(ctx, query, began, until)
	switch {
	case err == nil:
		e.count.replies.Add(1)
		if e.resting.Load() != 0 {
			e.succeeded()
		}
		return reply, nil
	case errors.Is(err, errFull), errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		// None of it is the server's fault.
	case isTimeout(err) && (err == errSlow || time.Since(began) < e.g.cfg.AttemptTimeout/3):
		// The name is slow, or the caller impatient: a third is the least that
		// the first of many servers gets.
	case isDial(err):
		// It was entered once, when the dial failed.
	default:
		e.failed(began, err)
	}
	e.count.failed.Add(1)
	return nil, err
}

// errSlow is a query that timed out while others on its connection did not: the
// name is slow, not the server.
var errSlow error = &slowError{}

type slowError struct{}

func (*slowError) Error() string        { return errTimeout.Error() }
func (*slowError) Is(target error) bool { return target == errTimeout }

// askUntil asks, and asks again when a connection proves to be stale.
func (e *endpoint) askUntil(ctx context.Context, query []byte, began, until time.Time) ([]byte, error) {
	for resends := 0; ; {
		c, err := e.conn(ctx, until)
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		reply, err := c.exchange(ctx, query, until)
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, errGone):
			// It ended after it was picked; it will not be picked again.
		case isLost(err) && resends < maxResends && (c.proven(sent) || errors.Is(err, errNetwork)):
			resends++
			e.count.resent.Add(1)
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

// conn picks the connection for a query, and waits for one that is being opened
// if there is none.
func (e *endpoint) conn(ctx context.Context, until time.Time) (*conn, error) {
	for {
		c, d, err := e.pick(ctx)
		if c != nil || err != nil {
			return c, err
		}
		t := time.NewTimer(time.Until(until))
		select {
		case <-d.done:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
			return nil, errTimeout
		}
		// Everybody who waited for a dial shares its failure, but not that of
		// one which was cut short by a change of the network.
		if d.err != nil && !errors.Is(d.err, errNetwork) {
			return nil, d.err
		}
	}
}

// pick returns the least busy connection or, if there is none, the dial to wait
// for. A connection that is busy has another one opened beside it.
func (e *endpoint) pick(ctx context.Context) (*conn, *dial, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, ErrClosed
	}
	var best *conn
	for _, c := range e.conns {
		if best == nil || c.load.Load() < best.load.Load() {
			best = c
		}
	}
	if best == nil {
		if e.dialing == nil && e.dialErr != nil && time.Since(e.dialErrAt) < dialPause {
			return nil, nil, e.dialErr
		}
		return nil, e.dial(ctx), nil
	}
	if best.load.Load() >= busyLoad && len(e.conns) < e.g.cfg.MaxConns && e.dialing == nil &&
		time.Since(e.dialErrAt) > dialPause {
		e.dial(ctx)
	}
	return best, nil, nil
}

// gone takes a connection off the list, and has the warm keeper look whether to
// open another.
func (e *endpoint) gone(c *conn) {
	e.mu.Lock()
	e.conns = slices.DeleteFunc(e.conns, func(x *conn) bool { return x == c })
	e.mu.Unlock()
	e.g.log.Debug("connection ended", "server", e.server.String(), "err", c.cause())
	e.g.nudge()
}

// claim makes this query the trial of a server whose rest is over.
func (e *endpoint) claim(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.health.claim(now, e.g.cfg.AttemptTimeout) {
		e.resting.Store(e.health.until.UnixNano())
	}
}

// failed enters a failure of an attempt that began then.
func (e *endpoint) failed(began time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !e.health.failed(began, now, rand.Float64()) {
		return
	}
	e.resting.Store(e.health.until.UnixNano())
	e.lastError = reason(e.server, now.Sub(began), err)
	if !e.told && now.Sub(e.warned) > warnEvery {
		e.told, e.warned = true, now
		e.g.log.Warn("upstream fails", "server", e.server.String(), "reason", e.lastError)
	}
}

// succeeded enters a reply.
func (e *endpoint) succeeded() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resting.Store(0)
	if e.health.succeeded() && e.told {
		e.told = false
		e.g.log.Info("upstream is well again", "server", e.server.String())
	}
}

// restarting reports whether the server was well until a moment ago.
func (e *endpoint) restarting(now time.Time) bool {
	if e.count.replies.Load() == 0 {
		return false // it never was
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health.failures == 0 || now.Sub(e.health.first) < restartTime
}

// reset forgets failures and ends every connection: the network changed.
func (e *endpoint) reset() {
	e.mu.Lock()
	e.health = health{}
	e.resting.Store(0)
	e.dialErr = nil
	conns := slices.Clone(e.conns)
	d := e.dialing
	e.mu.Unlock()
	if d != nil {
		d.cancel(errNetwork)
	}
	for _, c := range conns {
		c.end(errNetwork)
	}
}

// close ends every connection, and lets no other be opened.
func (e *endpoint) close() {
	e.mu.Lock()
	e.closed = true
	conns := slices.Clone(e.conns)
	d := e.dialing
	e.mu.Unlock()
	if d != nil {
		d.cancel(ErrClosed)
	}
	for _, c := range conns {
		c.end(ErrClosed)
	}
}
