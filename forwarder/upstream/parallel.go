// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/transport"
)

// errSuperseded ends the foreground attempt when a background attempt settled the query.
var errSuperseded = errors.New("another server was faster")

const (
	// minLate is the least lateness at which a second server is asked: a client does not
	// notice less.
	minLate = 5 * time.Millisecond

	// schedulingDelay is how late a timer has to fire for this machine to be the cause.
	// Replies may have arrived meanwhile: before a server counts as silent or late, they
	// get that long to be read.
	schedulingDelay = 20 * time.Millisecond
)

// never is a time in ticks that is not reached.
const never = math.MaxInt64

// parallel is the part of a request that concerns more than one server at a time.
type parallel struct {
	current   *endpoint // the server in the foreground
	number    int       // its number in the group
	overdueAt int64     // when the next server is to be asked as well, in ticks, or never
	overdue   bool      // that was done
	repeated  bool      // current was asked again, on another connection
	hedgeAt   int64     // when a second server is to be asked, in ticks, or never
	hedged    bool      // that was done
	prepared  bool      // the next server has a connection, or one is being opened
	alarmedAt int64     // when current last counted as silent, in ticks; 0 if it did not

	running     int          // background attempts
	outcomes    chan outcome // their results; nil before the first
	latest      *endpoint    // the server of the latest one
	latestStart int64        // when that started, in ticks
	background  context.Context
	cancel      context.CancelFunc // of background
	queryCopy   []byte             // a copy of the query: attempts may outlive the request by a moment
}

// cause is why a background attempt was started.
type cause uint8

const (
	causeMeasurement cause = iota // to measure the server
	causeLate                     // the foreground is late: a hedge
	causeSilent                   // the foreground is silent
)

// outcome is the result of a background attempt.
type outcome struct {
	e       *endpoint
	cause   cause
	started time.Time
	reply   []byte
	err     error
}

// Wait implements [transport.Waiter] for the foreground. Meanwhile it starts background
// attempts when they are due and handles their results. It returns errSuperseded if one of
// them settled the query.
func (r *request) Wait(ctx context.Context, done <-chan struct{}, now, until time.Time, lastRead *atomic.Int64) error {
	since, end := transport.Ticks(now), transport.Ticks(until)
	t := since
	next := min(end, r.check(ctx, t, since, lastRead))
	for delayed := false; ; {
		r.timer.Reset(time.Duration(next - t))
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case o := <-r.outcomes:
			r.handleOutcome(ctx, o)
			if r.finished() {
				return errSuperseded
			}
			t = transport.Ticks(time.Now())
		case <-r.timer.C:
			t = transport.Ticks(time.Now())
			if t >= end {
				return transport.ErrTimeout
			}
			if delayed = !delayed && wasDelayed(next, t); delayed {
				next = min(end, t+int64(schedulingDelay))
				continue
			}
		}
		next = min(end, r.check(ctx, t, since, lastRead))
	}
}

// wasDelayed reports whether a timer that was due then and fired now was delayed by the
// machine.
func wasDelayed(due, now int64) bool { return now-due > int64(schedulingDelay) }

// watch starts watching the server of that number, which is asked in the foreground. Its
// attempt lasts until the deadline of the request: a slow answer is better than none.
func (r *request) watch(n int, now time.Time) {
	e := r.g.endpoints[n]
	r.current, r.number, r.hedgeAt, r.prepared, r.alarmedAt = e, n, never, false, 0
	r.overdueAt, r.overdue, r.repeated = never, false, false
	if len(r.order) > 0 {
		r.overdueAt = transport.Ticks(now.Add(r.timeShare(r.deadline.Sub(now), len(r.order)+1)))
	}
	if r.g.cfg.Policy == order.Hedged && !r.hedged {
		if late := e.meter.Late(); late != 0 {
			r.hedgeAt = transport.Ticks(now) + max(late, int64(minLate))
		}
	}
}

// check asks another server if the foreground, which has been waiting since that time, is
// late or silent. It returns the time of the next check.
func (r *request) check(ctx context.Context, now, since int64, lastRead *atomic.Int64) int64 {
	if now >= r.hedgeAt {
		r.hedgeAt = never
		r.hedge(ctx)
	}
	read := since
	if lastRead != nil {
		read = max(read, lastRead.Load())
	}
	repeatAt := r.repeatIfSilent(ctx, now, read, lastRead != nil)
	if now >= r.overdueAt {
		r.overdue, r.overdueAt = true, never
		if r.startNext(ctx); len(r.order) > 0 {
			r.overdueAt = now + int64(r.timeShare(time.Duration(transport.Ticks(r.deadline)-now), len(r.order)))
		}
	}
	return min(r.hedgeAt, r.overdueAt, repeatAt, r.checkSilence(ctx, now, max(read, r.alarmedAt)))
}

// repeatIfSilent asks the server in the foreground again, once, if it has an open
// connection that delivered nothing for [Config.SilentTimeout]. The transport then uses
// another connection, while a late reply on this one is still accepted. It returns the time
// of the next check.
func (r *request) repeatIfSilent(ctx context.Context, now, read int64, open bool) int64 {
	// The transport notices at the same time, and has to be first.
	switch due := read + int64(r.g.cfg.SilentTimeout+schedulingDelay); {
	case r.repeated || !open:
		return never
	case now < due:
		return due
	}
	r.repeated = true
	if transport.Ticks(r.deadline)-now > int64(minAttempt) {
		r.start(ctx, r.number, causeSilent, nil)
	}
	return never
}

// checkSilence asks the next server as well if the foreground has been silent since that
// time for too long, and prepares that before. It returns the time of the next check.
func (r *request) checkSilence(ctx context.Context, now, silentSince int64) int64 {
	if len(r.g.endpoints) == 1 || len(r.order) == 0 && r.alarmedAt != 0 {
		return never
	}
	limit := r.current.meter.SilenceLimit()
	if now-silentSince >= limit {
		silentSince = now
		r.handleSilence(ctx, now)
		if len(r.order) == 0 {
			return never
		}
	}
	if r.prepared || len(r.order) == 0 {
		return silentSince + limit
	}
	if now-silentSince >= limit/2 {
		// Open a connection to the next server, unless it has one, so that it need not be
		// dialled when it has to be asked.
		r.prepared = true
		if n := r.order[0]; r.servers[n].Healthy() {
			r.g.endpoints[n].transport.Maintain(ctx, time.Now(), true)
		}
		return silentSince + limit
	}
	return silentSince + limit/2
}

// handleSilence marks the server in the foreground as silent, and asks the next one.
func (r *request) handleSilence(ctx context.Context, now int64) {
	r.alarmedAt = now
	r.current.suspect(ctx, now)
	if e := r.latest; e != nil && r.running > 0 && now-r.latestStart >= e.meter.SilenceLimit() && e.meter.LastRead() < r.latestStart {
		e.suspect(ctx, now)
	}
	r.startNext(ctx)
}

// startNext asks the next server in the background because the foreground is silent.
func (r *request) startNext(ctx context.Context) {
	if n, ok := r.next(); ok {
		r.start(ctx, n, causeSilent, nil)
	}
}

// hedge asks a second server, if a healthy one is left and the budget allows it.
func (r *request) hedge(ctx context.Context) {
	if len(r.order) == 0 || !r.servers[r.order[0]].Healthy() || !r.g.hedges.spend() {
		return
	}
	if n, ok := r.next(); ok {
		r.hedged = true
		r.g.endpoints[n].count.hedges.Add(1)
		r.start(ctx, n, causeLate, nil)
	}
}

// measure sends the query to a server that is not the first one too, if it is time to
// measure that. It measures a server once at a time. A measurement continues when the query is
// answered: if it were canceled then, a silent server would remain unknown, and be measured by
// every query.
func (r *request) measure(ctx context.Context, chance uint64) {
	n := order.MeasureTarget(r.order, r.servers, chance)
	if n < 0 || r.rounds > 0 {
		return
	}
	e := r.g.endpoints[n]
	if !e.measuring.CompareAndSwap(false, true) {
		return
	}
	if r.g.cfg.Policy == order.Hedged && !r.g.hedges.spend() {
		e.measuring.Store(false)
		return
	}
	r.order = slices.DeleteFunc(r.order, func(o int) bool { return o == n })
	r.start(ctx, n, causeMeasurement, func() { e.measuring.Store(false) })
}

// start asks a server in the background. done, unless nil, is called when the attempt has
// finished.
func (r *request) start(ctx context.Context, n int, why cause, done func()) {
	if r.outcomes == nil {
		r.outcomes = make(chan outcome, 2*len(r.g.endpoints)) // sends never block: a server is asked at most twice
		r.background, r.cancel = context.WithCancel(ctx)
		r.queryCopy = bytes.Clone(r.query)
	}
	now := time.Now()
	o := outcome{e: r.g.endpoints[n], cause: why, started: now}
	attempt, query, until, outcomes := r.background, r.queryCopy, r.deadline, r.outcomes
	if why == causeMeasurement {
		attempt = context.WithoutCancel(ctx) // the server's reply is wanted even if another one is faster
	}
	ok := r.g.spawn(func() {
		timer := transport.NewTimer()
		var w transport.Waiter = timer
		if why == causeMeasurement {
			w = &measurement{Timer: timer, e: o.e}
		}
		o.reply, o.err = o.e.ask(attempt, query, o.started, until, w)
		timer.Stop()
		if done != nil {
			done()
		}
		outcomes <- o
	})
	if !ok { // the Group is closed, and the foreground receives the error
		if done != nil {
			done()
		}
		return
	}
	r.running++
	r.latest, r.latestStart = o.e, transport.Ticks(now)
}

// measurement is the [transport.Waiter] of a measurement. No foreground watches the server, so
// it marks a silent one as suspect itself.
type measurement struct {
	*transport.Timer
	e *endpoint
}

// Wait implements [transport.Waiter].
func (m *measurement) Wait(ctx context.Context, done <-chan struct{}, now, until time.Time, lastRead *atomic.Int64) error {
	limit := now.Add(time.Duration(m.e.meter.SilenceLimit()))
	if !limit.Before(until) {
		return m.Timer.Wait(ctx, done, now, until, lastRead)
	}
	if err := m.Timer.Wait(ctx, done, now, limit, lastRead); err != transport.ErrTimeout {
		return err
	}
	later := time.Now()
	if m.e.meter.LastRead() < transport.Ticks(now) {
		m.e.suspect(ctx, transport.Ticks(later))
	}
	return m.Timer.Wait(ctx, done, later, until, lastRead)
}

// handleOutcome handles the result of a background attempt.
func (r *request) handleOutcome(ctx context.Context, o outcome) {
	r.running--
	r.handleResult(ctx, o.e, o.started, o.reply, o.err)
	switch {
	case r.reply != nil && o.cause == causeLate:
		o.e.count.hedgesWon.Add(1)
	case o.e == r.current && r.repeated && r.errorReply != nil && r.running == 0 && len(r.order) == 0:
		r.stopped = true // the same server has replied on another connection
	case !r.finished() && (r.alarmedAt != 0 || r.overdue):
		r.startNext(ctx)
	}
}

// waitForBackground waits for one background attempt while none runs in the foreground.
// They have the deadline of the request.
func (r *request) waitForBackground(ctx context.Context) {
	select {
	case o := <-r.outcomes:
		r.handleOutcome(ctx, o)
	case <-ctx.Done():
		r.stopped = true
		r.recordError(transport.NewError(r.current.server, 0, ctx.Err()))
	}
}
