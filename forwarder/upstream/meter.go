// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// silentAfter is how long a server that owes replies may bring nothing at all
	// before its queries are asked elsewhere as well. With the way to another
	// server that makes less than 300 ms; names that take a recursive resolver
	// so long are rare.
	silentAfter = 225 * time.Millisecond

	// maxPatience bounds how long that becomes with a server that proves to be
	// slow rather than silent.
	maxPatience = time.Second

	// staleAfter is how long a reply time is news.
	staleAfter = time.Second

	// minReplies is how many reply times make a p95 worth acting on.
	minReplies = 16
)

// epoch is what ticks count from.
var epoch = time.Now()

// ticks is a time as a number that no change of the clock alters.
func ticks(t time.Time) int64 { return int64(t.Sub(epoch)) }

// times is what a server's replies teach about how long they take. It is pure:
// no clock, no lock. The zero value knows nothing.
type times struct {
	hist histogram
	n    uint64

	// usual is the EWMA, 0 if unknown, with the eighth of RFC 6298 §2 for each
	// new value; a half where the one before it is stale, so that a server which
	// is asked now and then alone is not told by what it was long ago. What is
	// over four times the average counts as four: one slow name says little of
	// its server.
	usual time.Duration
	// late is when a reply is overdue; 0 if that is not known yet. It is p95, but
	// no more than a quarter over what nine in ten need: where about one in
	// twenty is slow, p95 itself is now a usual and now a slow reply's time.
	// Before there are enough for either, it is twice the average.
	late time.Duration
	// patience is silentAfter, or more for a server that was taken for silent
	// and was only slow.
	patience time.Duration
}

// enter enters a reply that took d. alarm: its server was taken for silent while
// it was due; stale: it is the first one after staleAfter.
func (t *times) enter(d time.Duration, alarm, stale bool) {
	d = max(d, 1)
	t.hist.add(d)
	switch step := min(d, 4*t.usual) - t.usual; {
	case t.usual == 0:
		t.usual = d
	case stale:
		t.usual += step / 2
	default:
		t.usual += step / 8
	}
	switch {
	case alarm && d < maxPatience:
		t.patience = max(t.patience, min(d*3/2, maxPatience))
	case t.patience > silentAfter:
		t.patience += (min(max(silentAfter, d*3/2), maxPatience) - t.patience) / 16
	}
	t.n++
	if t.n < minReplies {
		t.late = 2 * t.usual
	}
	if t.n%minReplies == 0 {
		t.late = min(t.hist.quantile(0.95), t.hist.quantile(0.90)*5/4)
	}
}

// meter keeps the times of one server where everybody can read them.
type meter struct {
	mu sync.Mutex
	times
	last int64 // the latest reply, in ticks

	usual, late, patience atomic.Int64 // of times

	heard     atomic.Int64 // when its latest byte came, in ticks
	suspected atomic.Int64 // when it was last taken for silent, in ticks
}

// replied enters a reply, to a query sent at that time. Times are in ticks.
func (m *meter) replied(sent, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enter(time.Duration(now-sent), m.suspected.Load() > sent, now-m.last > int64(staleAfter))
	m.last = now
	m.publish()
}

// publish makes what was learnt readable. m.mu is held.
func (m *meter) publish() {
	m.usual.Store(int64(m.times.usual))
	m.late.Store(int64(m.times.late))
	m.patience.Store(int64(m.times.patience))
}

// forget forgets: the network changed.
func (m *meter) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times = times{}
	m.publish()
	m.suspected.Store(0)
}

// wait is how long the server may be silent.
func (m *meter) wait() int64 { return max(m.patience.Load(), int64(silentAfter)) }

// isSuspect reports whether the server was taken for silent, and still is.
func (m *meter) isSuspect() bool {
	since := m.suspected.Load()
	return since != 0 && since > m.heard.Load()
}

// suspect takes the server for silent, and reports whether that is news.
func (m *meter) suspect(now int64) bool {
	old := m.suspected.Load()
	return (old == 0 || old <= m.heard.Load()) && m.suspected.CompareAndSwap(old, now)
}

// quantile95 is p95 as it is now.
func (m *meter) quantile95() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hist.quantile(0.95)
}
