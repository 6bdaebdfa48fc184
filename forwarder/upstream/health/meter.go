// SPDX-License-Identifier: Apache-2.0

package health

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MinSilence is how long a server with pending replies may send nothing before its
	// queries are also sent elsewhere. With the round trip to another server that is less
	// than 300 ms; names that take a recursive resolver so long are rare.
	MinSilence = 225 * time.Millisecond

	// maxSilence limits that time for a server that proves to be slow rather than silent.
	maxSilence = time.Second

	// staleAfter is how long a reply time is current.
	staleAfter = time.Second

	// MinReplies is the number of reply times for which p95 is meaningful.
	MinReplies = 16
)

// times estimates how long a server's replies take. It is pure: it uses no clock and no
// lock. The zero value is empty.
type times struct {
	hist histogram
	n    uint64

	// usual is the EWMA, 0 if unknown. Each new value has the weight of an eighth (RFC
	// 6298 §2), or of a half if the previous one is stale, so that a server that is
	// rarely asked is not judged by old values. Values over four times the average count
	// as four times: one slow name says little about its server.
	usual time.Duration
	// late is the time after which a reply is late; 0 if unknown. It is p95, but at most
	// a quarter more than p90: if about one reply in twenty is slow, p95 itself
	// alternates between the time of a usual and of a slow reply. Before there are enough
	// values for either, it is twice the average.
	late time.Duration
	// silence is MinSilence, or more for a server that was considered silent and was only
	// slow.
	silence time.Duration
}

// add adds a reply that took d. suspected means that the server was considered silent while
// the reply was pending, stale that the previous reply is older than staleAfter.
func (t *times) add(d time.Duration, suspected, stale bool) {
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
	case suspected && d < maxSilence:
		t.silence = max(t.silence, min(d*3/2, maxSilence))
	case t.silence > MinSilence:
		t.silence += (min(max(MinSilence, d*3/2), maxSilence) - t.silence) / 16
	}
	t.n++
	if t.n < MinReplies {
		t.late = 2 * t.usual
	}
	if t.n%MinReplies == 0 {
		t.late = min(t.hist.quantile(0.95), t.hist.quantile(0.90)*5/4)
	}
}

// Meter holds the times of one server for concurrent use.
type Meter struct {
	mu sync.Mutex
	times
	last int64 // the latest reply, in ticks

	usual, late, silence atomic.Int64 // copies of the fields of times

	lastRead  atomic.Int64 // when its latest byte arrived, in ticks
	suspected atomic.Int64 // when it was last considered silent, in ticks
}

// Replied records a reply to a query that was sent at that time. Times are in ticks.
func (m *Meter) Replied(sent, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(time.Duration(now-sent), m.suspected.Load() > sent, now-m.last > int64(staleAfter))
	m.last = now
	m.publish()
}

// publish updates the copies that are read without the lock. m.mu is held.
func (m *Meter) publish() {
	m.usual.Store(int64(m.times.usual))
	m.late.Store(int64(m.times.late))
	m.silence.Store(int64(m.times.silence))
}

// Reset forgets all times, because the network changed.
func (m *Meter) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times = times{}
	m.publish()
	m.suspected.Store(0)
}

// Usual returns how long replies take, 0 if unknown: the EWMA.
func (m *Meter) Usual() time.Duration { return time.Duration(m.usual.Load()) }

// Late returns the time after which a reply is late, in ticks; 0 if unknown.
func (m *Meter) Late() int64 { return m.late.Load() }

// BytesRead records that a byte of the server arrived. Times are in ticks.
func (m *Meter) BytesRead(now int64) { m.lastRead.Store(now) }

// LastRead returns when the latest byte of the server arrived, in ticks; 0 if none has.
func (m *Meter) LastRead() int64 { return m.lastRead.Load() }

// SilenceLimit returns how long the server may be silent, in ticks.
func (m *Meter) SilenceLimit() int64 { return max(m.silence.Load(), int64(MinSilence)) }

// IsSuspect reports whether the server is considered silent.
func (m *Meter) IsSuspect() bool {
	since := m.suspected.Load()
	return since != 0 && since > m.lastRead.Load()
}

// Suspect marks the server as silent, and reports whether it was not marked before.
func (m *Meter) Suspect(now int64) bool {
	old := m.suspected.Load()
	return (old == 0 || old <= m.lastRead.Load()) && m.suspected.CompareAndSwap(old, now)
}

// P95 returns the current p95.
func (m *Meter) P95() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hist.quantile(0.95)
}
