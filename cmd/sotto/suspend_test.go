// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchSleep: a suspend is noticed once, and a clock that is read a little late is
// none.
func TestWatchSleep(t *testing.T) {
	var clock, woken atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	reads := make(chan struct{})
	go func() {
		done <- watchSleep(ctx, slog.New(slog.DiscardHandler), time.Millisecond, func() (time.Duration, error) {
			reads <- struct{}{}
			return time.Duration(clock.Load()), nil
		}, func() { woken.Add(1) })
	}()
	look := func() { <-reads; <-reads } // one that began before is not one that saw the change
	look()
	for _, step := range []struct {
		by   time.Duration
		want int64
	}{{0, 0}, {time.Second, 0}, {time.Hour, 1}, {0, 1}, {3 * time.Second, 2}} {
		clock.Add(int64(step.by))
		look()
		look()
		if n := woken.Load(); n != step.want {
			t.Errorf("after %s more of sleep it was called %d times, want %d", step.by, n, step.want)
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
	if err := watchSleep(t.Context(), slog.New(slog.DiscardHandler), time.Millisecond, func() (time.Duration, error) { return 0, broken }, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
	if d, err := slept(); err != nil || d < 0 {
		t.Errorf("slept %s, %v", d, err)
	}
}
