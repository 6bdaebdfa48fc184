// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"net/http"
	"testing"
	"time"
)

// TestWait: a list is due after its pause by the wall clock, and at once when the clock was set back.
func TestWait(t *testing.T) {
	var s State
	now := time.Now() // has a reading of the monotonic clock
	if s.wait(now) != 0 {
		t.Error("a list that was never fetched is not due")
	}
	s.schedule(now, time.Hour)
	for after, want := range map[time.Duration]time.Duration{
		0: time.Hour, 20 * time.Minute: 40 * time.Minute, time.Hour: 0, 30 * time.Hour: 0, -time.Second: 0, -8 * time.Hour: 0,
	} {
		if got := s.wait(now.Add(after)); got != want {
			t.Errorf("after %s: due in %s: want %s", after, got, want)
		}
	}
}

// TestScheduleByWallClock: the time of the next fetch, after a success and after a failure, has no
// reading of the monotonic clock, which stops while the machine is suspended.
func TestScheduleByWallClock(t *testing.T) {
	u := newUpdating(t)
	for what, serve := range map[string]http.HandlerFunc{"success": text("a.example\n"), "failure": http.NotFound} {
		u.serve.Store(&serve)
		if _, err := u.round(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		s := u.States()[0]
		if s.Next.IsZero() || s.Next != s.Next.Round(0) || s.set != s.set.Round(0) || (s.Error == "") != (what == "success") {
			t.Errorf("after a %s: %+v", what, s)
		}
	}
}

// TestClockSetBack: a list that was fetched while the clock was ahead is fetched at once when it was set
// back. One that another process stored then is fetched within an interval.
func TestClockSetBack(t *testing.T) {
	u := newUpdating(t)
	f := text("a.example\n")
	u.serve.Store(&f)
	round := func(calls int64) {
		t.Helper()
		wait, err := u.round(t.Context(), false)
		if err != nil || wait <= 0 || u.calls.Load() != calls {
			t.Errorf("%d transfers, next in %s, %v: want %d", u.calls.Load(), wait, err, calls)
		}
	}
	round(1)
	round(1)
	u.states[u.url].schedule(time.Now().Add(8*time.Hour), time.Hour)
	round(2)
	round(2)
	if err := u.store.touch(u.url, time.Now().Add(8*time.Hour)); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.inForce, err = u.store.Info(u.url); err != nil {
		t.Fatal(err)
	}
	clear(u.states)
	round(2)
	if next := time.Until(u.States()[0].Next); next > time.Hour {
		t.Errorf("stored while the clock was ahead: next in %s", next)
	}
}
