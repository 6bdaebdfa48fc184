// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"sync/atomic"
	"time"
)

// epoch is the start of ticks.
var epoch = time.Now()

// Ticks returns t as nanoseconds since the process started, on the monotonic clock:
// setting the system clock does not change it. It fits an atomic integer.
func Ticks(t time.Time) int64 { return int64(t.Sub(epoch)) }

// Timer is a [Waiter] that waits for nothing but the deadline.
type Timer struct{ t *time.Timer }

// NewTimer returns a Timer. The caller calls [Timer.Stop] when it is done.
func NewTimer() *Timer { return &Timer{t: StoppedTimer()} }

// StoppedTimer returns a timer that is not running.
func StoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// Stop releases the timer's resources.
func (w *Timer) Stop() { w.t.Stop() }

// Wait implements [Waiter].
func (w *Timer) Wait(ctx context.Context, done <-chan struct{}, now, until time.Time, _ *atomic.Int64) error {
	w.t.Reset(until.Sub(now))
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.t.C:
		return ErrTimeout
	}
}
