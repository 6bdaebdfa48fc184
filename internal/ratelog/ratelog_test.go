// SPDX-License-Identifier: Apache-2.0

package ratelog

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestLimiter checks that one warning per interval is allowed, also when several
// goroutines ask at the same time.
func TestLimiter(t *testing.T) {
	var l Limiter
	now := time.Now()
	for _, tc := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {Interval - 1, false}, {Interval, true}, {Interval + time.Second, false}, {1, false}, {3 * Interval, true},
		{-2 * Interval, true}, {-2*Interval + 1, false}, {-Interval, true}} {
		if got := l.Allow(now.Add(tc.after)); got != tc.want {
			t.Errorf("after %v: allowed %v", tc.after, got)
		}
	}
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if l.Allow(now.Add(5 * Interval)) {
				allowed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := allowed.Load(); n != 1 {
		t.Errorf("%d goroutines were allowed to log, want 1", n)
	}
}
