// SPDX-License-Identifier: Apache-2.0

package conns

import (
	"context"
	"errors"
	"slices"
	"time"

	"sotto/forwarder/upstream/transport"
)

// pendingDial is a connection that is being opened. Queries wait for done.
type pendingDial struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
	err    error // set before done is closed
}

// startDial opens a connection in the background, or returns the dial in progress. It continues
// when the caller's context is canceled, because other queries wait for it as well. s.mu is held.
func (s *Set[C]) startDial(ctx context.Context) *pendingDial {
	if s.dialing != nil {
		return s.dialing
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	d := &pendingDial{done: make(chan struct{}), cancel: cancel}
	s.dialing = d
	s.wg.Go(func() {
		defer cancel(nil)
		started := time.Now()
		dialCtx, stop := context.WithTimeout(ctx, s.cfg.DialTimeout)
		c, err := s.open(dialCtx, s.Remove)
		stop()
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		if s.finishDial(d, c, err, started) {
			c.Run()
		}
	})
	return d
}

// finishDial adds c to the connections, or sets err as the result of the dial. It reports whether it
// added c.
func (s *Set[C]) finishDial(d *pendingDial, c C, err error, started time.Time) bool {
	opened := err == nil
	s.mu.Lock()
	s.dialing = nil
	if opened && s.closed {
		err = transport.ErrClosed
	}
	var old []C
	switch {
	case err == nil:
		old = slices.Clone(s.list)
		s.list = append(s.list, c)
		s.dialErr = nil
	case !errors.Is(err, transport.ErrNetworkChanged):
		s.dialErr, s.dialErrAt = &transport.DialError{Err: err}, time.Now()
	}
	s.mu.Unlock()
	for _, o := range old {
		o.DrainIfExpired()
	}
	if err != nil {
		d.err = &transport.DialError{Err: err}
	}
	close(d.done)
	switch {
	case err == nil:
		took := time.Since(started)
		s.opened.Add(took)
		s.cfg.Log.Debug("connection opened", "server", s.cfg.Server.String(), "duration", took)
	case opened:
		c.Close(err)
	case !errors.Is(err, transport.ErrNetworkChanged) && !errors.Is(err, transport.ErrClosed):
		s.cfg.Observer.DialFailed(started, err)
	}
	return err == nil
}
