// SPDX-License-Identifier: Apache-2.0

package auto

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/transport"
)

// patience is how long a query waits, without a byte from the server, until a trial finds out
// whether another protocol works. It leaves time to send the query over that one.
const patience = time.Second

// errSwitched ends an exchange because a trial found that another protocol works and the one
// in use does not.
var errSwitched = errors.New("another protocol is used now")

// watcher is the Waiter of a query for the protocol n: it starts a trial when the server is
// silent, and ends the exchange if that finds another protocol.
type watcher struct {
	transport.Waiter
	t *Transport
	n int
}

// Wait implements [transport.Waiter].
func (w *watcher) Wait(ctx context.Context, done <-chan struct{}, now, until time.Time, lastRead *atomic.Int64) error {
	since := now
	doubt := now.Add(patience)
	if !doubt.Before(until) {
		return w.Waiter.Wait(ctx, done, now, until, lastRead)
	}
	if err := w.Waiter.Wait(ctx, done, now, doubt, lastRead); err != transport.ErrTimeout {
		return err
	}
	now = time.Now()
	if lastRead != nil && lastRead.Load() > transport.Ticks(since) {
		return w.Waiter.Wait(ctx, done, now, until, lastRead) // the name is slow, not the server
	}
	tr := w.t.doubt(ctx, w.n, now)
	if tr == nil {
		return w.Waiter.Wait(ctx, done, now, until, lastRead)
	}
	replied, err := w.waitForEither(ctx, done, tr.done, now, until, lastRead)
	switch {
	case replied:
		return nil
	case err != nil:
		return err
	case !w.t.uses(w.n):
		return errSwitched
	}
	return w.Waiter.Wait(ctx, done, time.Now(), until, lastRead)
}

// waitForEither waits for done or other, and reports whether it received from done.
func (w *watcher) waitForEither(ctx context.Context, done, other <-chan struct{}, now, until time.Time, lastRead *atomic.Int64) (replied bool, err error) {
	either, stop, exited := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(exited)
		select {
		case <-done:
			replied = true
		case <-other:
		case <-stop:
			return
		}
		close(either)
	}()
	err = w.Waiter.Wait(ctx, either, now, until, lastRead)
	close(stop)
	<-exited
	return replied, err
}

// doubt returns a trial that finds out whether the protocol n works, or nil if there was one a
// moment ago, or another protocol is used already.
func (t *Transport) doubt(ctx context.Context, n int, now time.Time) *trial {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed, t.using != n && t.using != unknown:
		return nil
	case t.trial == nil && now.Sub(t.tried) < doubtPause:
		return nil
	}
	return t.startTrial(ctx, len(t.candidates), now)
}

// uses reports whether the protocol n is in use, or no other one is.
func (t *Transport) uses(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.using == n || t.using == unknown
}
