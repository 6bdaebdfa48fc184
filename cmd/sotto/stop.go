// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"

	"sotto/internal/control"
)

var (
	// errWithdrawn, as the cause of the end of run's context, says that this process was
	// asked to stop before it took over: the seal is still its predecessor's.
	errWithdrawn = errors.New("stopped before it took over")

	// errStopping and errHandingOver refuse a request to hand over.
	errStopping    = fmt.Errorf("%w: it is stopping", control.ErrBusy)
	errHandingOver = fmt.Errorf("%w: it is handing over to another process", control.ErrBusy)
)

// ownership says whose the seal is, and with it what a stop does.
type ownership uint8

const (
	owns      ownership = iota // a stop ends the process, and with it the seal as on-exit says
	borrows                    // the predecessor's still: a stop ends the process, and leaves the seal alone
	undecided                  // a takeover is under way: a stop waits for its outcome
)

// stopper ends run when SIGINT or SIGTERM asks for it. A process that stopped in the
// middle of a takeover could open a seal that is another's by then, so ownership decides
// when a stop takes effect and how.
type stopper struct {
	asked chan struct{}   // closed by the first request
	ctx   context.Context // of run
	end   context.CancelCauseFunc
	log   *slog.Logger

	mu  sync.Mutex
	now ownership
}

// catchStops returns a context that ends when a stop takes effect. Its cause is then
// context.Canceled where the seal is this process's, or errWithdrawn. The signals stay
// caught until the process exits, so that one that comes late does not change its status.
func catchStops(ctx context.Context, log *slog.Logger) (context.Context, *stopper) {
	ctx, s := newStopper(ctx, log)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-signals // those that follow ask for the same
		s.stop()
	}()
	return ctx, s
}

func newStopper(ctx context.Context, log *slog.Logger) (context.Context, *stopper) {
	s := &stopper{asked: make(chan struct{}), log: log}
	s.ctx, s.end = context.WithCancelCause(ctx)
	return s.ctx, s
}

// stop asks for a stop.
func (s *stopper) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isAsked() {
		return
	}
	close(s.asked)
	if s.now == undecided && s.ctx.Err() == nil {
		s.log.Info("asked to stop: waiting for the takeover to end")
	}
	s.apply()
}

// become changes the ownership. A stop that waited for it takes effect.
func (s *stopper) become(o ownership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = o
	s.apply()
}

// hold makes the ownership undecided. It refuses if a stop was asked for, which then takes
// effect as if there were no takeover, and during another takeover.
func (s *stopper) hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isAsked():
		return errStopping
	case s.now == undecided:
		return errHandingOver
	}
	s.now = undecided
	return nil
}

// isOwner reports whether the seal is this process's.
func (s *stopper) isOwner() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now == owns
}

// apply ends run if a stop was asked for and takes effect. s.mu is held.
func (s *stopper) apply() {
	switch {
	case !s.isAsked() || s.now == undecided:
	case s.now == borrows:
		s.end(errWithdrawn)
	default:
		s.end(nil)
	}
}

func (s *stopper) isAsked() bool { return isClosed(s.asked) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stopped reports whether a stop ended ctx that takes the seal with it.
func stopped(ctx context.Context) bool { return context.Cause(ctx) == context.Canceled }
