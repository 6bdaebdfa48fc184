// SPDX-License-Identifier: Apache-2.0

package conns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/durations"
)

// line is a connection that carries nothing.
type line struct {
	closed   func(*line, error)
	opened   time.Time
	load     atomic.Int32
	tired    atomic.Bool
	draining atomic.Bool
	expired  atomic.Bool
	done     chan struct{}
	once     sync.Once
	reason   error
}

func (l *line) Accepts() bool     { return !l.draining.Load() }
func (l *line) Tired() bool       { return l.tired.Load() }
func (l *line) Load() int         { return int(l.load.Load()) }
func (l *line) Reserve()          { l.load.Add(1) }
func (l *line) Opened() time.Time { return l.opened }
func (l *line) Run()              { <-l.done }

func (l *line) Expire(now time.Time) bool {
	if now.Sub(l.opened) >= time.Hour {
		l.expired.Store(true)
	}
	return l.expired.Load()
}

func (l *line) DrainIfExpired() {
	if l.expired.Load() {
		l.draining.Store(true)
	}
}

func (l *line) DrainIfUnused(now time.Time, limit time.Duration) bool {
	if l.Load() > 0 || now.Sub(l.opened) <= limit {
		return false
	}
	l.draining.Store(true)
	return true
}

func (l *line) Close(reason error) {
	l.once.Do(func() {
		l.draining.Store(true)
		l.reason = reason
		l.closed(l, reason)
		close(l.done)
	})
}

// observer counts requests for maintenance, and failed dials.
type observer struct{ due, failed atomic.Int32 }

func (o *observer) BytesRead(int64)             {}
func (o *observer) Replied(int64, int64)        {}
func (o *observer) DialFailed(time.Time, error) { o.failed.Add(1) }
func (o *observer) MaintenanceDue()             { o.due.Add(1) }

// dialTime is how long a connection takes to open.
const dialTime = 100 * time.Millisecond

// rig is a set of such connections.
type rig struct {
	*Set[*line]
	observer observer
	dials    atomic.Int32
	err      atomic.Pointer[error] // of dials
}

func newRig(t *testing.T) *rig {
	r := &rig{}
	cfg := &transport.Config{
		Server:   transport.Server{Addr: netip.MustParseAddrPort("192.0.2.1:853")},
		MaxConns: 2, MaxInflight: 100, DialTimeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler), Observer: &r.observer,
	}
	r.Set = New(cfg, 3*time.Minute, new(durations.Histogram), func(ctx context.Context, closed func(*line, error)) (*line, error) {
		r.dials.Add(1)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialTime):
		}
		if err := r.err.Load(); err != nil {
			return nil, *err
		}
		return &line{closed: closed, opened: time.Now(), done: make(chan struct{})}, nil
	})
	t.Cleanup(func() {
		r.Close()
		r.Wait()
	})
	return r
}

func (r *rig) reserve(t *testing.T) (*line, error) {
	w := transport.NewTimer()
	defer w.Stop()
	return r.Reserve(t.Context(), time.Now().Add(10*time.Second), w)
}

func (r *rig) mustReserve(t *testing.T) *line {
	t.Helper()
	l, err := r.reserve(t)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestReserve: queries share a connection until it is busy, then the least busy of two, and are
// refused when both are full.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.mustReserve(t)
		for range BusyLoad - 1 {
			if l := r.mustReserve(t); l != first {
				t.Fatal("a second connection while the first is not busy")
			}
		}
		if l := r.mustReserve(t); l != first { // which opens another
			t.Error("a query waited although a connection is open")
		}
		time.Sleep(2 * time.Second)
		second := r.mustReserve(t)
		if n := len(r.Conns()); n != 2 || second == first || r.dials.Load() != 2 {
			t.Fatalf("%d connections", n)
		}
		for range 200 - first.Load() - second.Load() {
			r.mustReserve(t)
		}
		if _, err := r.reserve(t); !errors.Is(err, transport.ErrOverloaded) {
			t.Errorf("more queries than two connections accept: %v", err)
		}
		if a, b := first.Load(), second.Load(); a != 100 || b != 100 || r.dials.Load() != 2 {
			t.Errorf("%d and %d queries, %d dials", a, b, r.dials.Load())
		}
	})
}

// TestTired: another connection is opened before the only one accepts no more queries.
func TestTired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.mustReserve(t)
		first.tired.Store(true)
		r.mustReserve(t)
		time.Sleep(2 * time.Second)
		first.draining.Store(true)
		started := time.Now()
		if l := r.mustReserve(t); l == first || time.Since(started) > 0 {
			t.Errorf("the query waited %v", time.Since(started))
		}
	})
}

// TestDials: queries share a dial and its error, which fails others for a while; a change of the
// network forgets it, and cancels a dial, which the queries then wait for once more.
func TestDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		down := errors.New("down")
		r.err.Store(&down)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := r.reserve(t); !errors.Is(err, down) || !transport.IsDial(err) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		started := time.Now()
		if _, err := r.reserve(t); !errors.Is(err, down) || time.Since(started) > 0 || r.dials.Load() != 1 || r.observer.failed.Load() != 1 {
			t.Errorf("%v after %v, %d dials", err, time.Since(started), r.dials.Load())
		}
		r.err.Store(nil)
		r.Reset()
		wg.Go(func() { r.mustReserve(t) })
		time.Sleep(dialTime / 2)
		r.Reset()
		wg.Wait()
		if n := r.dials.Load(); n != 3 || time.Since(started) != dialTime*3/2 {
			t.Errorf("%d dials in %v", n, time.Since(started))
		}
	})
}

// TestMaintain: while queries are expected, a connection is open, at most one is opened per second,
// and an expired one is drained when its replacement is open. Unused ones are closed.
func TestMaintain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		maintain := func(expected bool) { r.Maintain(t.Context(), time.Now(), expected) }
		maintain(false)
		if r.dials.Load() != 0 {
			t.Error("a connection although no query is expected")
		}
		maintain(true)
		time.Sleep(time.Minute)
		for range 3 { // a server that closes each connection at once
			for _, l := range r.Conns() {
				l.Close(errors.New("closed by the server"))
			}
			maintain(true)
			time.Sleep(2 * dialTime)
		}
		if n := r.dials.Load(); n != 2 {
			t.Errorf("%d dials, want 2: the second attempt is too early", n)
		}
		before := r.observer.due.Load()
		time.Sleep(WarmInterval)
		if r.observer.due.Load() == before {
			t.Error("no maintenance is requested for the time after the interval")
		}
		maintain(true)
		time.Sleep(2 * dialTime)

		list := r.Conns()
		if len(list) != 1 {
			t.Fatalf("%d connections", len(list))
		}
		list[0].Reserve() // it is in use for an hour
		time.Sleep(time.Hour)
		maintain(true)
		if !list[0].Accepts() {
			t.Error("drained before there is another one")
		}
		time.Sleep(2 * time.Second)
		if list[0].Accepts() || len(r.Conns()) != 2 {
			t.Error("an expired connection is not replaced")
		}
		list[0].load.Store(0)
		list[0].Close(errors.New("drained"))
		time.Sleep(4 * time.Minute)
		unused := r.Conns()
		maintain(false)
		if len(r.Conns()) != 0 || !slices.ContainsFunc(unused, func(l *line) bool { return errors.Is(l.reason, ErrIdle) }) {
			t.Error("an unused connection is kept")
		}
	})
}

// TestClose: queries that wait fail, connections close, and nothing is opened or run any more.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		l := r.mustReserve(t)
		l.draining.Store(true)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.reserve(t); !errors.Is(err, transport.ErrClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		r.Close()
		r.Wait()
		wg.Wait()
		if !errors.Is(l.reason, transport.ErrClosed) {
			t.Errorf("closed with %v", l.reason)
		}
		if _, err := r.reserve(t); !errors.Is(err, transport.ErrClosed) {
			t.Error(err)
		}
		if r.Go(func() { t.Error("it runs") }) {
			t.Error("it accepts work")
		}
	})
}
