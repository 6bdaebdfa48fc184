// SPDX-License-Identifier: Apache-2.0

package health

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	start := time.Unix(1000, 0)
	var b Backoff
	if b.Succeeded() || b.ClaimTrial(start, time.Second) {
		t.Error("a healthy server recovered, or was tried")
	}
	if !b.Failed(start, start.Add(time.Second), 0.5) {
		t.Error("the first failure does not count")
	}
	now := start.Add(time.Second)
	if backoff := b.Until.Sub(now); backoff != BackoffBase {
		t.Errorf("the backoff is %v, want %v", backoff, BackoffBase)
	}
	// Attempts that were in progress do not extend it.
	if b.Failed(start, now.Add(time.Millisecond), 0.5) || b.Failures != 1 {
		t.Error("an attempt that started before the failure counts as well")
	}
	if b.ClaimTrial(now, time.Second) {
		t.Error("a trial during the backoff")
	}
	now = now.Add(BackoffBase)
	if !b.ClaimTrial(now, time.Second) || b.ClaimTrial(now, time.Second) {
		t.Error("want one trial after the backoff, and no second one")
	}
	b.Failed(now, now.Add(10*time.Millisecond), 0.5)
	if b.Failures != 2 || b.Until.Sub(now) != 2*BackoffBase+10*time.Millisecond {
		t.Errorf("after the second failure: %+v", b)
	}
	if !b.Succeeded() || b != (Backoff{}) {
		t.Errorf("after a success: %+v", b)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	var b Backoff
	now := time.Unix(1000, 0)
	last := time.Duration(0)
	for range 100 {
		started := now.Add(time.Microsecond)
		now = now.Add(time.Millisecond)
		b.Failed(started, now, 0.5)
		backoff := b.Until.Sub(now)
		if backoff < last || backoff > BackoffMax {
			t.Fatalf("failure %d: the backoff is %v after %v", b.Failures, backoff, last)
		}
		last = backoff
	}
	if last != BackoffMax {
		t.Errorf("the final backoff is %v, want %v", last, BackoffMax)
	}
	for _, random := range []float64{0, 0.999} {
		var b Backoff
		b.Failed(now, now, random)
		if backoff := b.Until.Sub(now); backoff < BackoffBase*3/4 || backoff > BackoffBase*5/4 {
			t.Errorf("random %v: the backoff is %v", random, backoff)
		}
	}
}
