// SPDX-License-Identifier: Apache-2.0

package streams

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/transport"
)

// lateTime is how long the reply to an abandoned query is waited for.
const lateTime = 2 * time.Second

// errDrained is why a connection is closed that has answered its last query.
var errDrained = errors.New("the connection was replaced, or its server no longer wants it")

// entry is a connection of a pool.
type entry struct {
	Conn
	p       *Pool
	closed  func(*entry, error) // called when it closes
	opened  time.Time
	expires time.Time    // when it is to be replaced
	load    atomic.Int32 // queries in flight and those about to be sent
	late    atomic.Int32 // abandoned queries whose streams are open
	replied atomic.Int64 // when the latest reply arrived, in ticks; 0 if none did

	ctx    context.Context // canceled when it closes
	cancel context.CancelFunc
	calls  sync.WaitGroup

	mu       sync.Mutex
	draining bool  // it accepts no more queries
	expired  bool  // it is drained as soon as its replacement is open
	closeErr error // why it was closed; nil if it is open
	lastUsed time.Time
	busyFrom time.Time   // when the latest query was sent on the unused connection
	lastSent time.Time   // when the latest query was sent
	slow     bool        // its server was silent for too long, but the path works
	watch    *time.Timer // drains or closes it if it is silent; nil if no query is in flight
}

func newEntry(p *Pool, c Conn, closed func(*entry, error)) *entry {
	now := time.Now()
	age := p.cfg.MaxAge
	e := &entry{Conn: c, p: p, closed: closed, opened: now, lastUsed: now, expires: now.Add(age - time.Duration(float64(age)*rand.Float64()/4))}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Run waits until the connection is closed, and drains it if its server wants that.
func (e *entry) Run() {
	select {
	case <-e.Draining():
		e.drain()
		<-e.ctx.Done()
	case <-e.ctx.Done():
	}
	e.calls.Wait()
}

// call is one query in its stream.
type call struct {
	done  chan struct{} // closed when it is finished
	reply []byte
	err   error
	state atomic.Int32 // pending, finished or abandoned
	stop  context.CancelFunc
}

const (
	pending = iota
	finished
	abandoned
)

// start sends a query, which the caller has counted in the load, in a goroutine. It reports
// false if the connection is closed.
func (e *entry) start(query []byte, now time.Time) (k *call, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closeErr != nil {
		return nil, false
	}
	e.lastUsed, e.lastSent = now, now
	if e.watch == nil {
		e.busyFrom = now
		e.watch = time.AfterFunc(e.p.cfg.SilentTimeout, e.checkSilence)
	}
	k = &call{done: make(chan struct{})}
	var ctx context.Context
	ctx, k.stop = context.WithCancel(e.ctx)
	e.calls.Go(func() {
		defer k.stop()
		e.roundTrip(ctx, k, query, now)
	})
	return k, true
}

// roundTrip runs one query.
func (e *entry) roundTrip(ctx context.Context, k *call, query []byte, sent time.Time) {
	e.show(tap.ForwarderQuery, query, sent, time.Time{})
	e.p.count.sent.Add(1)
	reply, err := e.RoundTrip(ctx, query)
	now := time.Now()
	if err == nil {
		e.show(tap.ForwarderResponse, reply, sent, now)
		ticks := transport.Ticks(now)
		e.replied.Store(ticks)
		e.p.cfg.Observer.BytesRead(ticks)
		e.p.cfg.Observer.Replied(transport.Ticks(sent), ticks)
	} else if isLost(err) && ctx.Err() == nil {
		e.Close(err)
	}
	k.reply, k.err = reply, err
	if k.state.CompareAndSwap(pending, finished) {
		e.release()
		close(k.done)
		return
	}
	e.late.Add(-1)
	if err == nil {
		e.p.count.late.Add(1)
	}
}

// abandon stops waiting for a call. It reports false if the call has just finished.
func (e *entry) abandon(k *call) bool {
	const maxLate = 1024 // more are likely lost rather than late
	if !k.state.CompareAndSwap(pending, abandoned) {
		<-k.done
		return false
	}
	if e.late.Add(1) > maxLate {
		k.stop()
	} else {
		time.AfterFunc(lateTime, k.stop)
	}
	e.release()
	return true
}

// isLost reports whether an error of [Conn.RoundTrip] means that the connection is lost.
func isLost(err error) bool {
	var query *QueryError
	var pause *PauseError
	return !errors.Is(err, ErrRefused) && !errors.Is(err, transport.ErrMalformed) && !errors.Is(err, transport.ErrMismatch) &&
		!errors.As(err, &query) && !errors.As(err, &pause)
}

// release takes back one query from the load.
func (e *entry) release() {
	e.mu.Lock()
	left := e.load.Add(-1)
	e.lastUsed = time.Now()
	if left == 0 && e.watch != nil {
		e.watch.Stop()
		e.watch = nil
	}
	done := left == 0 && e.draining
	e.mu.Unlock()
	if done {
		e.Close(e.endReason())
	}
}

// checkSilence acts if queries are in flight and no reply has arrived for too long. The connection is
// closed if the path may be dead. Otherwise it only accepts no more queries: a slow reply is better
// than none.
func (e *entry) checkSilence() {
	e.mu.Lock()
	if e.watch == nil {
		e.mu.Unlock()
		return
	}
	slow, again := e.silence(transport.Ticks(time.Now()))
	if again > 0 {
		e.watch.Reset(again)
	}
	drain := slow && !e.slow
	e.slow = e.slow || slow
	e.mu.Unlock()
	switch {
	case again == 0:
		e.Close(transport.ErrSilent)
	case drain:
		e.drain()
	}
}

// silence reports whether no reply has arrived for too long, and when to check again: 0 if nothing
// else has arrived either, and the queries are not acknowledged. e.mu is held.
func (e *entry) silence(now int64) (slow bool, again time.Duration) {
	busy, limit := transport.Ticks(e.busyFrom), int64(e.p.cfg.SilentTimeout)
	replyDue, heardDue := max(e.replied.Load(), busy)+limit, max(e.Heard(), busy)+limit
	switch {
	case now < replyDue:
		return false, time.Duration(replyDue - now)
	case now < heardDue:
		return true, time.Duration(heardDue - now)
	case e.Acknowledged(transport.Ticks(e.lastSent)):
		return true, e.p.cfg.SilentTimeout
	}
	return true, 0
}

// isSilent reports whether the connection is slow and has delivered no reply since that time.
func (e *entry) isSilent(since time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.slow && e.replied.Load() <= transport.Ticks(since)
}

// drain lets the connection accept no more queries. It closes when none is in flight.
func (e *entry) drain() {
	e.mu.Lock()
	e.draining = true
	unused := e.load.Load() == 0
	e.mu.Unlock()
	e.p.cfg.Observer.MaintenanceDue()
	if unused {
		e.Close(e.endReason())
	}
}

// endReason returns why a draining connection closes. One that the server refused before there was
// a query is a failed dial (see [conns.Set.Remove]).
func (e *entry) endReason() error {
	if err := e.Failure(); err != nil {
		return err
	}
	return errDrained
}

// Close closes the connection for that reason, unless it is closed already.
func (e *entry) Close(reason error) {
	e.mu.Lock()
	if e.closeErr != nil {
		e.mu.Unlock()
		return
	}
	e.closeErr, e.draining = reason, true
	if e.watch != nil {
		e.watch.Stop()
		e.watch = nil
	}
	e.mu.Unlock()
	e.closed(e, reason)
	e.Conn.Close(reason)
	e.cancel()
}

// Accepts reports whether the connection accepts queries.
func (e *entry) Accepts() bool {
	select {
	case <-e.Draining(): // Run may not have noticed yet
		return false
	default:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.draining
}

// Tired, Load, Reserve and Opened implement [conns.Conn].
func (e *entry) Tired() bool       { return false }
func (e *entry) Load() int         { return int(e.load.Load()) }
func (e *entry) Reserve()          { e.load.Add(1) }
func (e *entry) Opened() time.Time { return e.opened }

// DrainIfExpired drains a connection that was marked as expired.
func (e *entry) DrainIfExpired() {
	e.mu.Lock()
	expired := e.expired
	e.mu.Unlock()
	if expired {
		e.drain()
	}
}

// reason returns why the connection was closed; nil if it is open.
func (e *entry) reason() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closeErr
}

// proven reports whether the connection worked before a query was sent on it at that time.
func (e *entry) proven(sent time.Time) bool {
	const settled = time.Second
	return e.replied.Load() != 0 || sent.Sub(e.opened) > settled
}

// Expire marks the connection as expired if it has reached its age, and reports whether it
// has.
func (e *entry) Expire(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expired = e.expired || !now.Before(e.expires)
	return e.expired
}

// DrainIfUnused starts draining the connection, for its caller to close it, if it has been
// unused for longer than limit. It reports whether it did.
func (e *entry) DrainIfUnused(now time.Time, limit time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.load.Load() > 0 || now.Sub(e.lastUsed) <= limit {
		return false
	}
	e.draining = true
	return true
}

// show shows a message to the tap.
func (e *entry) show(kind tap.Kind, msg []byte, sent, replied time.Time) {
	if e.p.cfg.Tap == nil {
		return
	}
	local, remote := e.Addrs()
	proto := tap.HTTPS
	if e.p.cfg.Server.Protocol == transport.DoQ {
		proto = tap.QUIC
	}
	e.p.cfg.Tap(tap.Message{Kind: kind, Proto: proto, Querier: local, Responder: remote, Queried: sent, Replied: replied, Data: msg})
}
