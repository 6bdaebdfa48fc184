// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	start := time.Unix(1000, 0)
	var h health
	if h.succeeded() || h.claimTrial(start, time.Second) {
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
	if h.claimTrial(now, time.Second) {
		t.Error("a trial while it rests")
	}
	now = now.Add(backoffBase)
	if !h.claimTrial(now, time.Second) || h.claimTrial(now, time.Second) {
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
