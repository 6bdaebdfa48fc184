// SPDX-License-Identifier: Apache-2.0

package auto

import (
	"context"
	"errors"
	"syscall"
	"time"

	"sotto/forwarder/upstream/transport"
)

const (
	// headStart is how long a protocol is tried before the next one is tried as well (RFC
	// 8305 §5). A reply takes two round trips with QUIC.
	headStart = 250 * time.Millisecond

	// trialPause is how long a failed trial also fails the queries that follow.
	trialPause = 250 * time.Millisecond

	// doubtPause limits how often a query without a reply starts a trial.
	doubtPause = 10 * time.Second

	// minRetry and maxRetry limit the time after which better protocols are tried again. It
	// doubles while they fail.
	minRetry = 5 * time.Minute
	maxRetry = 2 * time.Hour
)

// trial finds the protocol to use. Queries wait for done.
type trial struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	err    error // set before done is closed; a DialError
}

// startTrial tries the first n protocols in the background, or returns the trial in
// progress. t.mu is held.
func (t *Transport) startTrial(ctx context.Context, n int, now time.Time) *trial {
	if t.trial != nil {
		return t.trial
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	tr := &trial{done: make(chan struct{}), cancel: cancel}
	t.trial, t.tried = tr, now
	t.wg.Go(func() {
		defer cancel(nil)
		best, err := t.race(ctx, n)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		t.finishTrial(tr, n, best, err, now)
	})
	return tr
}

// cancelTrial cancels the trial in progress. t.mu is held.
func (t *Transport) cancelTrial(reason error) {
	if t.trial != nil {
		t.trial.cancel(reason)
	}
}

// finishTrial records the result of a trial of n protocols.
func (t *Transport) finishTrial(tr *trial, n, best int, err error, started time.Time) {
	t.mu.Lock()
	t.trial = nil
	ended := time.Now()
	t.tried = ended
	all := n == len(t.candidates)
	changed := false
	switch {
	case errors.Is(err, transport.ErrNetworkChanged), errors.Is(err, transport.ErrClosed):
		tr.err = &transport.DialError{Err: err}
	case err != nil && all:
		tr.err = &transport.DialError{Err: err}
		t.err, t.using = tr.err, unknown
	case err != nil: // no better one works
		t.scheduleRetry(ended)
	default:
		changed = t.using != best
		if changed {
			t.retryWait = 0
		}
		t.err, t.using = nil, best
		t.scheduleRetry(ended)
	}
	failed := t.err != nil && tr.err == t.err
	t.mu.Unlock()
	close(tr.done)
	switch {
	case failed:
		t.cfg.Observer.DialFailed(started, err)
	case changed:
		t.cfg.Log.Debug("protocol found", "server", t.cfg.Server.String(), "protocol", t.candidates[best].protocol.String(), "duration", ended.Sub(started))
	}
}

// scheduleRetry sets when better protocols are tried again. t.mu is held.
func (t *Transport) scheduleRetry(now time.Time) {
	t.retryWait = min(max(2*t.retryWait, minRetry), maxRetry)
	t.retryAt = now.Add(t.retryWait)
}

// race sends the probe over the first n protocols, and returns the first one with a reply.
func (t *Transport) race(ctx context.Context, n int) (best int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		n   int
		err error
	}
	results := make(chan result, n)
	until := time.Now().Add(t.cfg.DialTimeout)
	var errs []error
	var next <-chan time.Time // nil if the next protocol starts now or none is left
	for started := 0; ; {
		if started < n && (next == nil || len(errs) == started) {
			i := started
			started++
			t.wg.Go(func() {
				w := transport.NewTimer()
				defer w.Stop()
				_, err := t.candidates[i].Exchange(ctx, t.probe, until, w)
				results <- result{i, err}
			})
			if next = nil; started < n {
				next = time.After(headStart)
			}
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.n, nil
			}
			errs = append(errs, r.err)
			if len(errs) == n {
				return 0, mostSpecific(errs)
			}
			next = nil // start the next one now
		case <-next:
			next = nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// mostSpecific returns the error that says most about the server: that it is not
// authenticated, or else any but a missing route or a missing reply.
func mostSpecific(errs []error) error {
	for _, err := range errs {
		var untrusted *transport.TrustError
		if errors.As(err, &untrusted) {
			return err
		}
	}
	for _, err := range errs {
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) && !transport.IsTimeout(err) {
			return err
		}
	}
	return errs[0]
}
