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
		t.Error("a healthy server recovered, or was tried")
	}
	if !h.failed(start, start.Add(time.Second), 0.5) {
		t.Error("the first failure does not count")
	}
	now := start.Add(time.Second)
	if backoff := h.until.Sub(now); backoff != backoffBase {
		t.Errorf("the backoff is %v, want %v", backoff, backoffBase)
	}
	// Attempts that were in progress do not extend it.
	if h.failed(start, now.Add(time.Millisecond), 0.5) || h.failures != 1 {
		t.Error("an attempt that started before the failure counts as well")
	}
	if h.claimTrial(now, time.Second) {
		t.Error("a trial during the backoff")
	}
	now = now.Add(backoffBase)
	if !h.claimTrial(now, time.Second) || h.claimTrial(now, time.Second) {
		t.Error("want one trial after the backoff, and no second one")
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
		started := now.Add(time.Microsecond)
		now = now.Add(time.Millisecond)
		h.failed(started, now, 0.5)
		backoff := h.until.Sub(now)
		if backoff < last || backoff > backoffMax {
			t.Fatalf("failure %d: the backoff is %v after %v", h.failures, backoff, last)
		}
		last = backoff
	}
	if last != backoffMax {
		t.Errorf("the final backoff is %v, want %v", last, backoffMax)
	}
	for _, random := range []float64{0, 0.999} {
		var h health
		h.failed(now, now, random)
		if backoff := h.until.Sub(now); backoff < backoffBase*3/4 || backoff > backoffBase*5/4 {
			t.Errorf("random %v: the backoff is %v", random, backoff)
		}
	}
}
