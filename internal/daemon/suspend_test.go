// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchSuspend: a suspend is noticed once, and a delay between the reads of the clocks is
// not a suspend.
func TestWatchSuspend(t *testing.T) {
	var clock, resumed atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	reads := make(chan struct{})
	go func() {
		done <- watchSuspend(ctx, slog.New(slog.DiscardHandler), time.Millisecond, func() (time.Duration, error) {
			reads <- struct{}{}
			return time.Duration(clock.Load()), nil
		}, func() { resumed.Add(1) })
	}()
	wait := func() { <-reads; <-reads } // the first read may have started before the change
	wait()
	for _, step := range []struct {
		by   time.Duration
		want int64
	}{{0, 0}, {time.Second, 0}, {time.Hour, 1}, {0, 1}, {3 * time.Second, 2}} {
		clock.Add(int64(step.by))
		wait()
		wait()
		if n := resumed.Load(); n != step.want {
			t.Errorf("after %s more it was called %d times, want %d", step.by, n, step.want)
		}
	}
	cancel()
	for {
		select {
		case <-reads:
			continue
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		}
		break
	}
	broken := errors.New("no such clock")
	if err := watchSuspend(t.Context(), slog.New(slog.DiscardHandler), time.Millisecond, func() (time.Duration, error) { return 0, broken }, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
	if d, err := suspended(); err != nil || d < 0 {
		t.Errorf("suspended for %s, %v", d, err)
	}
}
