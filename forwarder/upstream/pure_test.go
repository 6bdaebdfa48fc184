// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	start := time.Unix(1000, 0)
	var h health
	if h.succeeded() || h.claim(start, time.Second) {
		t.Error("a healthy server recovers, or has a trial")
	}
	if !h.failed(start, start.Add(time.Second), 0.5) {
		t.Error("the first failure is no news")
	}
	now := start.Add(time.Second)
	if rest := h.until.Sub(now); rest != backoffBase {
		t.Errorf("it rests %v, want %v", rest, backoffBase)
	}
	// Attempts that ran at the same time make it no longer.
	if h.failed(start, now.Add(time.Millisecond), 0.5) || h.failures != 1 {
		t.Error("an attempt that began before the failure counts as well")
	}
	if h.claim(now, time.Second) {
		t.Error("a trial while it rests")
	}
	now = now.Add(backoffBase)
	if !h.claim(now, time.Second) || h.claim(now, time.Second) {
		t.Error("want one trial after the rest, and no second one")
	}
	h.failed(now, now.Add(10*time.Millisecond), 0.5)
	if h.failures != 2 || h.until.Sub(now) != 2*backoffBase+10*time.Millisecond {
		t.Errorf("after the second failure: %+v", h)
	}
	if !h.succeeded() || h != (health{}) {
		t.Errorf("after a success: %+v", h)
	}
}

func TestHealthIsBounded(t *testing.T) {
	var h health
	now := time.Unix(1000, 0)
	last := time.Duration(0)
	for range 100 {
		began := now.Add(time.Microsecond)
		now = now.Add(time.Millisecond)
		h.failed(began, now, 0.5)
		rest := h.until.Sub(now)
		if rest < last || rest > backoffMax {
			t.Fatalf("failure %d: it rests %v after %v", h.failures, rest, last)
		}
		last = rest
	}
	if last != backoffMax {
		t.Errorf("it rests %v at last, want %v", last, backoffMax)
	}
	for _, random := range []float64{0, 0.999} {
		var h health
		h.failed(now, now, random)
		if rest := h.until.Sub(now); rest < backoffBase*3/4 || rest > backoffBase*5/4 {
			t.Errorf("random %v: it rests %v", random, rest)
		}
	}
}

func TestInflight(t *testing.T) {
	const limit = 1 << 15
	table := newInflight(limit)
	byID := make(map[uint16]*call)
	for range limit {
		k := &call{}
		id, ok := table.add(k)
		if !ok || byID[id] != nil {
			t.Fatalf("ID %d with %d in the table: ok %v", id, len(byID), ok)
		}
		byID[id] = k
	}
	if _, ok := table.add(&call{}); ok {
		t.Error("the table takes more than its limit")
	}
	// Random, not counted up: at most a few neighbours follow each other.
	for id, k := range byID {
		if table.get(id) != k {
			t.Fatalf("ID %d has another call", id)
		}
		if table.remove(id, &call{}) {
			t.Fatal("a call was removed by another's")
		}
		if !table.remove(id, k) || table.remove(id, k) || table.get(id) != nil {
			t.Fatalf("ID %d is not removed once", id)
		}
		if table.len() == limit-10 {
			break
		}
	}
	if n := len(table.drain()); n != limit-10 || table.len() != 0 {
		t.Errorf("drained %d, %d are left", n, table.len())
	}
}

// TestIDsAreRandom: two connections' IDs are not the same, and do not count up.
func TestIDsAreRandom(t *testing.T) {
	a, b := newInflight(100), newInflight(100)
	same, next := 0, 0
	last := uint16(0)
	for range 100 {
		x, _ := a.add(&call{})
		y, _ := b.add(&call{})
		if x == y {
			same++
		}
		if x == last+1 {
			next++
		}
		last = x
	}
	if same > 5 || next > 5 { // a chance of less than one in 10^15
		t.Errorf("%d of 100 IDs are the same, %d follow each other", same, next)
	}
}

// TestAbandoned: what was given up is remembered once, up to a limit, and an ID
// that is used again belongs to the new query.
func TestAbandoned(t *testing.T) {
	table := newInflight(1 << 15)
	give := func(sent int64) uint16 {
		k := &call{sent: sent}
		id, ok := table.add(k)
		if !ok || !table.abandon(id, k) || table.abandon(id, k) {
			t.Fatal("a call is given up, once")
		}
		return id
	}
	id := give(7)
	if sent, ok := table.late(id); !ok || sent != 7 {
		t.Errorf("its reply is late: %v, sent at %d", ok, sent)
	}
	if _, ok := table.late(id); ok {
		t.Error("and so is a second one")
	}
	for range 2 * maxGone {
		give(1)
	}
	if n := len(table.gone); n > maxGone || n < maxGone*9/10 {
		t.Errorf("%d are remembered, want about %d", n, maxGone)
	}
	if table.len() != 0 {
		t.Errorf("%d are in flight", table.len())
	}
	for range 1 << 15 {
		id, _ := table.add(&call{})
		if _, ok := table.late(id); ok {
			t.Fatalf("ID %d is in flight, and a reply to it is late", id)
		}
	}
}
