// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// errBeaten ends an attempt when another one brought the answer.
var errBeaten = errors.New("another server was sooner")

const (
	// minLate is the least that a reply has to be late by for a second server to
	// be asked: what is saved below it nobody feels.
	minLate = 5 * time.Millisecond

	// hiccup is by how much a timer has to be late for the machine to be the one
	// that was held up. Replies may have come meanwhile: before a server is taken
	// for silent or late, they get that long to be read.
	hiccup = 20 * time.Millisecond
)

// waiter is what one attempt waits with.
type waiter struct {
	timer *time.Timer
	x     *exchange // whose attempt in the foreground it is; nil: it runs beside one
}

// newTimer returns a timer that does not run.
func newTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// await waits for done, from now until the deadline. heard is when a byte last
// came from where done is expected from, nil if none ever did. In the foreground
// it heeds the attempts beside it meanwhile, and begins them when it is time;
// [errBeaten] then says that one of them settled the query.
func (w *waiter) await(ctx context.Context, done <-chan struct{}, now, until time.Time, heard *atomic.Int64) error {
	since, end := ticks(now), ticks(until)
	t, next := since, end
	var others <-chan outcome
	if w.x != nil {
		next = min(end, w.x.look(ctx, t, since, heard))
		others = w.x.others
	}
	for held := false; ; {
		w.timer.Reset(time.Duration(next - t))
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case o := <-others:
			w.x.took(ctx, o)
			if w.x.ended() {
				return errBeaten
			}
			t = ticks(time.Now())
		case <-w.timer.C:
			t = ticks(time.Now())
			if t >= end {
				return errTimeout
			}
			if held = !held && wasHeldUp(next, t); held {
				next = min(end, t+int64(hiccup))
				continue
			}
		}
		if w.x != nil {
			next = min(end, w.x.look(ctx, t, since, heard))
			others = w.x.others // made with the first attempt beside
		}
	}
}

// wasHeldUp reports whether what was due then and happens now was held up by the
// machine.
func wasHeldUp(due, now int64) bool { return now-due > int64(hiccup) }

// race is the part of an exchange that more than one server takes part in.
type race struct {
	at       *endpoint // the server in the foreground
	looks    bool      // there is a reason to look after it
	hedgeAt  int64     // when a second server is to be asked; never: not at all
	hedged   bool      // one was
	prepared bool      // the next server has a connection, or is being dialled
	alarmed  int64     // when it was last taken for silent; 0: it was not

	running int          // attempts beside it
	others  chan outcome // their ends; nil before the first
	second  *endpoint    // the latest of them was begun at this server
	began   int64        // then, in ticks
	beside  context.Context
	cancel  context.CancelFunc // of beside
	copied  []byte             // the query; they may outlive the exchange by a moment
}

// reason is why a second server is asked beside the first.
type reasonBeside uint8

const (
	toScout reasonBeside = iota // to see how fast it is
	toHedge                     // the first is late
	toAlarm                     // the first is silent
)

// outcome is the end of an attempt beside the foreground.
type outcome struct {
	e     *endpoint
	why   reasonBeside
	began time.Time
	reply []byte
	err   error
}

// lookAfter begins to watch the server that is asked in the foreground.
func (x *exchange) lookAfter(e *endpoint, now time.Time) {
	x.at, x.hedgeAt, x.prepared, x.alarmed = e, never, false, 0
	x.looks = len(x.g.endpoints) > 1
	if x.g.cfg.Policy == Hedged && !x.hedged {
		if late := e.count.meter.late.Load(); late != 0 {
			x.hedgeAt = ticks(now) + max(late, int64(minLate))
		}
	}
}

// look sees whether the foreground, which waits since then, is late or silent,
// asks another server if so, and returns when to look again.
func (x *exchange) look(ctx context.Context, now, since int64, heard *atomic.Int64) int64 {
	if !x.looks {
		return never
	}
	if now >= x.hedgeAt {
		x.hedgeAt = never
		x.hedge(ctx)
	}
	quiet := max(since, x.alarmed)
	if heard != nil {
		quiet = max(quiet, heard.Load())
	}
	limit := x.at.count.meter.wait()
	if now-quiet >= limit {
		quiet = now
		x.alarm(ctx, now)
		if len(x.order) == 0 {
			x.looks = false
			return x.hedgeAt
		}
	}
	if x.prepared || len(x.order) == 0 {
		return min(x.hedgeAt, quiet+limit)
	}
	if now-quiet >= limit/2 {
		// So that the next server, if it has to be asked, need not be dialled
		// first. A connection that is there already is left alone.
		x.prepared = true
		if n := x.order[0]; x.servers[n].well() {
			x.g.endpoints[n].link.keep(ctx, time.Now(), true)
		}
		return min(x.hedgeAt, quiet+limit)
	}
	return min(x.hedgeAt, quiet+limit/2)
}

// alarm takes the server in the foreground for silent, and asks the next one.
func (x *exchange) alarm(ctx context.Context, now int64) {
	x.alarmed = now
	x.at.silent(ctx, now)
	if s := x.second; s != nil && x.running > 0 && now-x.began >= s.count.meter.wait() && s.count.meter.heard.Load() < x.began {
		s.silent(ctx, now)
	}
	x.addNext(ctx)
}

// addNext asks the next server beside the foreground, which is silent.
func (x *exchange) addNext(ctx context.Context) {
	if n, ok := x.next(); ok {
		x.add(ctx, n, toAlarm, nil)
	}
}

// hedge asks a second server, if a well one is there and the budget has it.
func (x *exchange) hedge(ctx context.Context) {
	if len(x.order) == 0 || !x.servers[x.order[0]].well() || !x.g.hedges.spend() {
		return
	}
	if n, ok := x.next(); ok {
		x.hedged = true
		x.g.endpoints[n].count.hedges.Add(1)
		x.add(ctx, n, toHedge, nil)
	}
}

// scout measures a server that is not the first, if it is time for that: not
// more than once at a time.
func (x *exchange) scout(ctx context.Context, chance uint64) {
	n := scout(x.order, x.servers, chance)
	if n < 0 || x.rounds > 0 {
		return
	}
	e := x.g.endpoints[n]
	if !e.scouted.CompareAndSwap(false, true) {
		return
	}
	if x.g.cfg.Policy == Hedged && !x.g.hedges.spend() {
		e.scouted.Store(false)
		return
	}
	x.order = slices.DeleteFunc(x.order, func(o int) bool { return o == n })
	x.add(ctx, n, toScout, func() { e.scouted.Store(false) })
}

// add asks a server beside the foreground. then, unless nil, is called at the end
// of it.
func (x *exchange) add(ctx context.Context, n int, why reasonBeside, then func()) {
	if x.others == nil {
		x.others = make(chan outcome, len(x.g.endpoints)) // a place for each: nobody blocks
		x.beside, x.cancel = context.WithCancel(ctx)
		x.copied = bytes.Clone(x.query)
	}
	now := time.Now()
	o := outcome{e: x.g.endpoints[n], why: why, began: now}
	ctx, query, until, out := x.beside, x.copied, x.deadline, x.others
	ok := x.g.spawn(func() {
		w := waiter{timer: newTimer()}
		o.reply, o.err = o.e.ask(ctx, query, o.began, until, &w)
		w.timer.Stop()
		if then != nil {
			then()
		}
		out <- o
	})
	if !ok { // the Group is closed, which the foreground finds out
		if then != nil {
			then()
		}
		return
	}
	x.running++
	x.second, x.began = o.e, ticks(now)
}

// took heeds the end of an attempt beside the foreground.
func (x *exchange) took(ctx context.Context, o outcome) {
	x.running--
	x.heed(ctx, o.e, o.began, o.reply, o.err)
	switch {
	case x.good != nil && o.why == toHedge:
		o.e.count.hedgesWon.Add(1)
	case !x.ended() && x.alarmed != 0:
		x.addNext(ctx)
	}
}

// waitForOthers waits for one of the attempts beside the foreground, where
// nothing runs any more. They have the deadline of the exchange.
func (x *exchange) waitForOthers(ctx context.Context) {
	select {
	case o := <-x.others:
		x.took(ctx, o)
	case <-ctx.Done():
		x.over = true
		x.note(newError(x.at.server, 0, ctx.Err()))
	}
}
