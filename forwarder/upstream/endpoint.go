// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/bootstrap"
	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/transport"
)

// warnInterval limits how often a server whose state keeps changing is logged.
const warnInterval = time.Minute

// endpoint is one server: its transport and its health. It is the transport's
// [transport.Observer].
type endpoint struct {
	g         *Group
	server    Server
	name      string // of the server, as Server.String returns it
	transport transport.Transport
	service   uint64          // hash of the service, for [Config.Split]
	resolved  *bootstrap.Name // what resolves the server's name; nil if its address is known
	count     endpointCounters
	meter     health.Meter

	// backoffUntil is backoff.Until for the picker, in ticks, so that setting the system
	// clock does not change it; 0 if healthy.
	backoffUntil atomic.Int64
	lastUse      atomic.Int64 // the latest query, in Unix nanoseconds
	noEDNSUntil  atomic.Int64 // queries have no OPT record until then, in ticks; 0 if they have one
	measuring    atomic.Bool  // a query to measure it is in flight
	probing      atomic.Bool  // a probe is in flight

	mu        sync.Mutex
	backoff   health.Backoff
	lastError string
	logged    [2]bool      // by kind: the latest log message is that it fails
	loggedAt  [2]time.Time // by kind: when that was last logged
}

// Kinds of failures that are logged separately: if a server that was unreachable returns
// with another certificate, the operator has to know.
const (
	kindFailed = iota
	kindUntrusted
)

func newEndpoint(g *Group, cfg transport.Config) (*endpoint, error) {
	e := &endpoint{g: g, server: cfg.Server, name: cfg.Server.String()}
	if split := g.cfg.Split; split != nil {
		e.service = split.Key.Service(serviceOf(e.server))
	}
	if !e.server.HasAddr() {
		e.resolved = g.newName(e.server)
		cfg.Lookup = e.resolved.Lookup
	}
	cfg.Observer = e
	var err error
	e.transport, err = newTransport(cfg)
	return e, err
}

// candidate returns the state that the policy decides by.
func (e *endpoint) candidate() order.Candidate {
	return order.Candidate{BackoffUntil: e.backoffUntil.Load(), Suspect: e.meter.IsSuspect(), Usual: e.meter.Usual(), Service: e.service}
}

// ask sends a query to this server and returns the reply, by the deadline.
func (e *endpoint) ask(ctx context.Context, query []byte, started, until time.Time, w transport.Waiter) ([]byte, error) {
	e.count.queries.Add(1)
	e.lastUse.Store(started.UnixNano())
	reply, err := e.exchange(ctx, query, transport.Ticks(started), until, w)
	switch {
	case err == nil:
		e.count.replies.Add(1)
		if e.backoffUntil.Load() != 0 {
			e.succeeded()
		}
		return reply, nil
	case err == errSuperseded, errors.Is(err, context.Canceled):
		e.count.abandoned.Add(1)
		return nil, err
	case errors.Is(err, transport.ErrOverloaded), errors.Is(err, transport.ErrClosed):
		// Not the server's fault.
	case errors.Is(err, transport.ErrUnusable), errors.Is(err, transport.ErrNameCloses), isName(err):
		// The server works, except for this name.
	case transport.IsTimeout(err) && (err == transport.ErrSlowName || time.Since(started) < e.g.cfg.AttemptTimeout/3):
		// The name is slow, or the caller's deadline was short: a third is the least that
		// the first of many servers gets.
	case transport.IsDial(err):
		// DialFailed recorded it, once for all queries.
	default:
		e.failed(started, err)
	}
	e.count.failed.Add(1)
	if !transport.IsDial(err) {
		e.count.failures[transport.FailureOf(err)].Add(1)
	}
	return nil, err
}

// isName reports whether err is a [transport.NameError].
func isName(err error) bool {
	var name *transport.NameError
	return errors.As(err, &name)
}

// suspect marks the server as silent until it sends something. A probe, which every server
// answers at once, distinguishes a slow name from a dead path, and records a failure if the
// server stays silent.
func (e *endpoint) suspect(ctx context.Context, now int64) {
	if e.backoffUntil.Load() == 0 && e.meter.Suspect(now) {
		e.count.suspicions.Add(1)
		e.probe(ctx)
	}
}

// probeIfDue probes a server that is not healthy, if it is time to. It is called for
// queries that are sent elsewhere: without queries the server's state does not matter.
func (e *endpoint) probeIfDue(ctx context.Context, now time.Time, c *order.Candidate) {
	switch {
	case c.BackoffUntil == 0 && c.Suspect, c.BackoffUntil != 0 && c.BackoffUntil <= transport.Ticks(now) && e.claimTrial(now):
		e.probe(ctx)
	}
}

// claimTrial reports whether the server's backoff has passed and the caller is the one to
// try it.
func (e *endpoint) claimTrial(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.backoff.ClaimTrial(now, e.g.cfg.AttemptTimeout) {
		return false
	}
	e.backoffUntil.Store(transport.Ticks(e.backoff.Until))
	return true
}

// probe checks in the background whether the server is healthy, unless a probe is in
// flight. It continues when the query that caused it is finished.
func (e *endpoint) probe(ctx context.Context) {
	if !e.probing.CompareAndSwap(false, true) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	ok := e.g.spawn(func() {
		defer e.probing.Store(false)
		e.count.probes.Add(1)
		w := transport.NewTimer()
		defer w.Stop()
		started := time.Now()
		_, err := e.ask(ctx, transport.ProbeQuery, started, started.Add(e.g.cfg.AttemptTimeout), w)
		if errors.Is(err, transport.ErrOverloaded) {
			e.failed(started, transport.ErrSilent) // it has as many queries as it may, and is silent
		}
	})
	if !ok {
		e.probing.Store(false)
	}
}

// failed records the failure of an attempt that started at that time.
func (e *endpoint) failed(started time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if !e.backoff.Failed(started, now, rand.Float64()) {
		return
	}
	e.backoffUntil.Store(transport.Ticks(e.backoff.Until))
	e.lastError = transport.Reason(e.server, now.Sub(started), err)
	var untrusted *transport.TrustError
	kind := kindFailed
	if errors.As(err, &untrusted) {
		kind = kindUntrusted
	}
	if !e.logged[kind] && now.Sub(e.loggedAt[kind]) > warnInterval {
		e.logged[kind], e.loggedAt[kind] = true, now
		e.g.log.Warn("upstream failed", "server", e.server.String(), "reason", e.lastError)
	}
}

// succeeded records a reply.
func (e *endpoint) succeeded() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.backoffUntil.Store(0)
	if logged := e.logged != [2]bool{}; e.backoff.Succeeded() && logged {
		e.logged = [2]bool{}
		e.g.log.Info("upstream recovered", "server", e.server.String())
	}
}

// restarting reports whether the server was healthy until a moment ago.
func (e *endpoint) restarting(now time.Time) bool {
	if e.count.replies.Load() == 0 {
		return false // it never replied
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.backoff.Failures == 0 || now.Sub(e.backoff.First) < restartTime
}

// maintain maintains the connections. Queries are expected while the server is not backed
// off and was used lately.
func (e *endpoint) maintain(ctx context.Context, now time.Time) {
	if e.resolved != nil {
		e.resolved.Refresh(ctx, now)
	}
	used := time.Unix(0, e.lastUse.Load())
	e.mu.Lock()
	backedOff := now.Before(e.backoff.Until)
	e.mu.Unlock()
	e.transport.Maintain(ctx, now, !backedOff && now.Sub(used) <= e.g.cfg.WarmTime)
}

// reset forgets failures and closes all connections, because the network changed.
func (e *endpoint) reset() {
	e.mu.Lock()
	e.backoff = health.Backoff{}
	e.backoffUntil.Store(0)
	e.mu.Unlock()
	e.meter.Reset()
	e.noEDNSUntil.Store(0)
	if e.resolved != nil {
		e.resolved.NetworkChanged()
	}
	e.transport.Reset()
}

// BytesRead implements [transport.Observer].
func (e *endpoint) BytesRead(now int64) { e.meter.BytesRead(now) }

// Replied implements [transport.Observer].
func (e *endpoint) Replied(sent, received int64) {
	e.count.roundTrips.Add(time.Duration(received - sent))
	e.meter.Replied(sent, received)
}

// DialFailed implements [transport.Observer].
func (e *endpoint) DialFailed(started time.Time, err error) {
	if e.resolved != nil {
		e.resolved.Expire(time.Now()) // the server may have moved
	}
	e.count.failures[transport.FailureOf(err)].Add(1)
	e.failed(started, err)
}

// MaintenanceDue implements [transport.Observer].
func (e *endpoint) MaintenanceDue() { e.g.wakeMaintenance() }
