// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// firstPause is the pause after a failure until the store is probed. A single late reply,
	// as on a busy machine, costs no more than the lookups of that time.
	firstPause = 20 * time.Millisecond

	// maxPause limits the pauses, which double. It is about how long a store may have
	// recovered before it is used again.
	maxPause = 10 * time.Second

	// steady is how many times as long as the last pause the store has to work until pauses
	// start at firstPause again. One that fails more often is used less and less.
	steady = 10

	// probeTimeout limits a probe, which may have to connect.
	probeTimeout = time.Second
)

// breaker keeps queries from waiting for a store that fails. It is open, so that they do not
// wait, until a probe succeeds, and after each failure.
type breaker struct {
	closed atomic.Bool
	failed chan struct{} // receives a value after a failure
	log    *slog.Logger

	mu      sync.Mutex
	lastErr error
}

func newBreaker(log *slog.Logger) *breaker {
	return &breaker{failed: make(chan struct{}, 1), log: log}
}

// fail opens the breaker.
func (b *breaker) fail(err error) {
	if !b.closed.CompareAndSwap(true, false) {
		return
	}
	b.setErr(err)
	b.log.Warn("the shared cache failed, so queries are answered without it until it works again", "err", err)
	b.failed <- struct{}{} // it has room: run has received the previous one before it closed the breaker
}

func (b *breaker) setErr(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastErr = err
}

// err returns the latest failure, or nil if the store works.
func (b *breaker) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastErr
}

// run probes the store while the breaker is open, until ctx ends.
func (b *breaker) run(ctx context.Context, probe func(context.Context) error) {
	defer b.closed.Store(false)
	pause := firstPause
	for first := true; ctx.Err() == nil; first = false {
		if err := probe(ctx); err != nil {
			b.setErr(err)
			if first && ctx.Err() == nil {
				b.log.Warn("the shared cache does not answer, so queries are answered without it until it does", "err", err)
			}
		} else {
			b.setErr(nil)
			b.log.Info("the shared cache works")
			since := time.Now()
			b.closed.Store(true)
			select {
			case <-b.failed:
			case <-ctx.Done():
				return
			}
			if time.Since(since) > steady*pause {
				pause = firstPause
			}
		}
		wait(ctx, pause+rand.N(pause/4)) // instances do not probe all at once
		pause = min(2*pause, maxPause)
	}
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
