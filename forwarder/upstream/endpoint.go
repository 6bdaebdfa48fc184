// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/wire"
)

// warnEvery is how often a server that comes and goes is worth a warning.
const warnEvery = time.Minute

// transport carries queries to one server, and owns its connections. It knows
// nothing of other servers: which one is asked, and when it rests, is its caller's.
type transport interface {
	// exchange sends a query and returns its reply, by the time until. It waits
	// with w alone, and hands on w's errors. Of its own errors [errSlow] says
	// that the name is slow and not the server, and one of [isDial] was told by
	// the transport itself. It enters when a byte comes, and how long each reply
	// took, into the server's meter: also of those that nobody waits for any more.
	exchange(ctx context.Context, query []byte, until time.Time, w *waiter) ([]byte, error)

	// keep is called now and then: it closes what is idle and, if a query is to
	// be expected, opens a connection where there is none.
	keep(ctx context.Context, now time.Time, expected bool)

	// reset ends every connection, since the network changed: queries in flight
	// are sent again on new ones.
	reset()

	// close ends every connection for good.
	close()

	// stats enters what the transport knows of its connections.
	stats(s *ServerStats)
}

// endpoint is one server: its transport and its health.
type endpoint struct {
	g      *Group
	server Server
	link   transport
	count  serverCounters

	// resting is health.until for the picker, in ticks, which no setting of the clock
	// makes longer; 0: healthy.
	resting atomic.Int64
	lastUse atomic.Int64 // the latest query, in Unix nanoseconds
	scouted atomic.Bool  // a query is out to measure it
	probed  atomic.Bool  // one is, to see whether it is well

	mu        sync.Mutex
	health    health
	lastError string
	told      [2]bool      // the log's latest word is that it fails; by whether it is trusted
	warned    [2]time.Time // when that was last logged
}

// What the log is told apart: that a server which was away comes back as somebody
// else is news, and calls for somebody to look.
const (
	tellFailed = iota
	tellUntrusted
)

func newEndpoint(g *Group, s Server) *endpoint {
	e := &endpoint{g: g, server: s}
	e.link = &pool{
		cfg: &g.cfg, log: g.log, server: s, count: &e.count, wg: &g.wg,
		verify: &verifier{server: s, profile: g.cfg.Profile, roots: g.cfg.RootCAs, now: time.Now},
		failed: e.failed, nudge: g.nudge,
	}
	return e
}

// candidate is what the policy has to know of the server.
func (e *endpoint) candidate() candidate {
	m := &e.count.meter
	return candidate{until: e.resting.Load(), suspect: m.isSuspect(), usual: time.Duration(m.usual.Load())}
}

// ask gets the reply to a query from this server, until the deadline.
func (e *endpoint) ask(ctx context.Context, query []byte, began, until time.Time, w *waiter) ([]byte, error) {
	e.count.queries.Add(1)
	e.lastUse.Store(began.UnixNano())
	reply, err := e.link.exchange(ctx, query, until, w)
	switch {
	case err == nil:
		e.count.replies.Add(1)
		if e.resting.Load() != 0 {
			e.succeeded()
		}
		return reply, nil
	case err == errBeaten, errors.Is(err, context.Canceled):
		e.count.abandoned.Add(1)
		return nil, err
	case errors.Is(err, errFull), errors.Is(err, ErrClosed):
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

// silent takes the server for silent until it sends something. A probe, which
// every server answers at once, tells a slow name from a dead path, and makes a
// failure of what stays silent.
func (e *endpoint) silent(ctx context.Context, now int64) {
	if e.resting.Load() == 0 && e.count.meter.suspect(now) {
		e.count.suspicions.Add(1)
		e.probe(ctx)
	}
}

// mend has a server that is not well looked at, if it is time for that. It is
// called for queries that go elsewhere: while there are none, nobody has to know.
func (e *endpoint) mend(ctx context.Context, now time.Time, c *candidate) {
	switch {
	case c.until == 0 && c.suspect, c.until != 0 && c.until <= ticks(now) && e.claim(now):
		e.probe(ctx)
	}
}

// claim reports whether the server's rest is over, and whoever asks is to see
// whether it is well.
func (e *endpoint) claim(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.health.claim(now, e.g.cfg.AttemptTimeout) {
		return false
	}
	e.resting.Store(ticks(e.health.until))
	return true
}

// probe sees in the background whether the server is well, unless that is going
// on. It outlives the query that was its occasion.
func (e *endpoint) probe(ctx context.Context) {
	if !e.probed.CompareAndSwap(false, true) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	ok := e.g.spawn(func() {
		defer e.probed.Store(false)
		e.count.probes.Add(1)
		w := waiter{timer: newTimer()}
		defer w.timer.Stop()
		began := time.Now()
		_, err := e.ask(ctx, probeQuery, began, began.Add(e.g.cfg.AttemptTimeout), &w)
		if errors.Is(err, errFull) {
			e.failed(began, ErrSilent) // as many queries as it may have, and it is silent
		}
	})
	if !ok {
		e.probed.Store(false)
	}
}

// probeQuery asks for the root's name servers, which is what every resolver has
// to know. Any reply will do.
var probeQuery = func() []byte {
	root := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	q, err := wire.ParseQuery(root)
	if err != nil {
		panic(err)
	}
	return wire.AppendQuery(nil, &q)
}()

// failed enters a failure of an attempt that began then.
func (e *endpoint) failed(began time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !e.health.failed(began, now, rand.Float64()) {
		return
	}
	e.resting.Store(ticks(e.health.until))
	e.lastError = reason(e.server, now.Sub(began), err)
	var untrusted *trustError
	kind := tellFailed
	if errors.As(err, &untrusted) {
		kind = tellUntrusted
	}
	if !e.told[kind] && now.Sub(e.warned[kind]) > warnEvery {
		e.told[kind], e.warned[kind] = true, now
		e.g.log.Warn("upstream fails", "server", e.server.String(), "reason", e.lastError)
	}
}

// succeeded enters a reply.
func (e *endpoint) succeeded() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resting.Store(0)
	if told := e.told != [2]bool{}; e.health.succeeded() && told {
		e.told = [2]bool{}
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

// keep looks after the connections. One is to be expected to be needed while the
// server does not rest, and was asked lately.
func (e *endpoint) keep(ctx context.Context, now time.Time) {
	used := time.Unix(0, e.lastUse.Load())
	e.mu.Lock()
	rests := now.Before(e.health.until)
	e.mu.Unlock()
	e.link.keep(ctx, now, !rests && now.Sub(used) <= e.g.cfg.WarmTime)
}

// reset forgets failures and ends every connection: the network changed.
func (e *endpoint) reset() {
	e.mu.Lock()
	e.health = health{}
	e.resting.Store(0)
	e.mu.Unlock()
	e.count.meter.forget()
	e.link.reset()
}
