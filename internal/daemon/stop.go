// SPDX-License-Identifier: Apache-2.0

package daemon

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
	// errNotTakenOver is the cause of the context of [Run] if the process was stopped
	// before it took over: the seal still belongs to the predecessor.
	errNotTakenOver = errors.New("stopped before it took over")

	// errStopping and errHandingOver refuse a takeover.
	errStopping    = fmt.Errorf("%w: it is stopping", control.ErrBusy)
	errHandingOver = fmt.Errorf("%w: it is handing over to another process", control.ErrBusy)
)

// ownership is the owner of the seal, which determines the effect of a stop.
type ownership uint8

const (
	owned     ownership = iota // by this process: a stop opens or closes the seal according to on-exit
	notOwned                   // by the predecessor: a stop leaves the seal alone
	undecided                  // during a takeover: a stop waits for its outcome
)

// stopper stops [Run] on SIGINT and SIGTERM. A process that stopped in the middle of a
// takeover could open a seal that belongs to another process, so ownership determines when
// a stop takes effect, and how.
type stopper struct {
	requested chan struct{}   // closed by the first request
	ctx       context.Context // of Run
	cancel    context.CancelCauseFunc
	log       *slog.Logger

	mu    sync.Mutex
	owner ownership
}

// catchStops returns a context that ends when a stop takes effect. Its cause is then
// context.Canceled if this process owns the seal, or else errNotTakenOver. The signals stay
// caught until the process exits, so that a late one does not change the exit status.
func catchStops(ctx context.Context, log *slog.Logger) (context.Context, *stopper) {
	ctx, s := newStopper(ctx, log)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-signals // further signals have no effect
		s.stop()
	}()
	return ctx, s
}

func newStopper(ctx context.Context, log *slog.Logger) (context.Context, *stopper) {
	s := &stopper{requested: make(chan struct{}), log: log}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s.ctx, s
}

// stop requests a stop.
func (s *stopper) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isRequested() {
		return
	}
	close(s.requested)
	if s.owner == undecided && s.ctx.Err() == nil {
		s.log.Info("asked to stop: waiting for the takeover to end")
	}
	s.takeEffect()
}

// set changes the ownership. A stop that waited for it takes effect.
func (s *stopper) set(o ownership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = o
	s.takeEffect()
}

// beginTakeover makes the ownership undecided. It returns errStopping if a stop was
// requested, which then takes effect as without a takeover, and errHandingOver during
// another takeover.
func (s *stopper) beginTakeover() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isRequested():
		return errStopping
	case s.owner == undecided:
		return errHandingOver
	}
	s.owner = undecided
	return nil
}

// ownsSeal reports whether this process owns the seal.
func (s *stopper) ownsSeal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner == owned
}

// takeEffect ends the context if a stop was requested and takes effect. s.mu is held.
func (s *stopper) takeEffect() {
	switch {
	case !s.isRequested() || s.owner == undecided:
	case s.owner == notOwned:
		s.cancel(errNotTakenOver)
	default:
		s.cancel(nil)
	}
}

func (s *stopper) isRequested() bool { return isClosed(s.requested) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stopped reports whether a stop ended ctx while this process owned the seal.
func stopped(ctx context.Context) bool { return context.Cause(ctx) == context.Canceled }
