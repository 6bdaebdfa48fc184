// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"sotto/forwarder"
	"sotto/intercept"
	"sotto/internal/handover"
)

// succession is the old one's side of what replace.go describes.
type succession struct {
	l       *seal
	st      *steering
	terms   terms
	lineage lineage
	stops   *stopper
	log     *slog.Logger

	resume  func()         // after yield
	version int            // of the terms of the process that asked
	next    *handover.Conn // the process that took over
}

// yield stops what only one process may do.
func (s *succession) yield(ctx context.Context, text []byte) error {
	var t terms
	if err := json.Unmarshal(text, &t); err != nil {
		return fmt.Errorf("it asked for something else: %w", err)
	}
	if err := t.fit(s.terms); err != nil {
		return err
	}
	if err := s.lineage.refuse(t); err != nil {
		return err
	}
	if err := s.stops.hold(); err != nil {
		return err
	}
	if err := s.letGo(ctx); err != nil {
		s.stops.become(owns)
		return err
	}
	s.version = t.Version
	s.log.Info("another Sotto asked to take over")
	s.st.keep() // for its cache
	return nil
}

// letGo stops keeping the machine's side in order, and lets another process open the
// instance.
func (s *succession) letGo(ctx context.Context) error {
	resume, err := s.l.pause(ctx)
	if err != nil {
		return err
	}
	if err := s.l.inst.Yield(); err != nil {
		resume()
		return err
	}
	s.resume = resume
	return nil
}

// hand gives the sockets, and waits until the other process answers. If it never does,
// this one goes on, unless a stop was asked for meanwhile.
func (s *succession) hand(ctx context.Context, next *handover.Conn) (handed bool) {
	err := s.offer(ctx, next)
	if err == nil {
		s.next = next
		if s.version > 0 {
			_ = next.Send(sayTaken, nil) // it may be gone
		}
		s.stops.end(&forwarder.Handover{SendConn: s.give})
		return true
	}
	if ctx.Err() != nil {
		_ = next.Close()
		return false // this process failed, and the other one has the instance or exits
	}
	_ = next.Send(sayNo, nil) // it may be gone
	_ = next.Close()
	s.log.Error("the Sotto that asked did not take over; this one goes on", "err", err)
	if err := s.takeBack(ctx); err != nil {
		s.stops.end(fmt.Errorf("take back what was to be handed over: %w; %s", err, staysClosed))
		return false
	}
	s.resume()
	if ctx.Err() == nil {
		s.stops.become(owns)
	}
	return false
}

// takeBack waits until the process that did not take over is gone, however long that
// hangs: this one answers meanwhile, and so does that one if it comes to.
func (s *succession) takeBack(ctx context.Context) error {
	for told := false; ctx.Err() == nil; told = true {
		err := s.l.inst.Reclaim()
		if err == nil {
			s.log.Info("took everything back")
		}
		if !errors.Is(err, intercept.ErrOwned) {
			return err
		}
		if !told {
			s.log.Error("the Sotto that asked hangs: end it; until then nothing is repaired, and 'sotto reload' does not work (SIGHUP does)")
		}
	}
	return nil
}

// offer ends without an error when the other process has taken over.
func (s *succession) offer(ctx context.Context, next *handover.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = next.Close() })
	defer stop()
	if err := next.SetReadDeadline(time.Now().Add(replaceTime)); err != nil {
		return err
	}
	if err := expect(next, sayReady); err != nil {
		return err
	}
	if err := s.introduce(next); err != nil {
		return err
	}
	udp, tcp, err := s.l.sockets.Descriptors()
	if err != nil {
		return err
	}
	if err := next.Send(saySockets, []byte{byte(len(udp))}, append(udp, tcp...)...); err != nil {
		return err
	}
	return expect(next, sayTake)
}

// introduce says who this process is, and whom it has replaced.
func (s *succession) introduce(next *handover.Conn) error {
	if s.version == 0 {
		return nil
	}
	ids, err := json.Marshal(s.lineage.next())
	if err != nil {
		return err
	}
	return next.Send(sayReplaced, ids)
}

func expect(c *handover.Conn, want byte) error {
	kind, _, files, err := c.Receive()
	for _, f := range files {
		_ = f.Close() // nobody asked for one
	}
	if err == nil && kind != want {
		err = fmt.Errorf("it said %q instead of %q", kind, want)
	}
	return err
}

// give sends a connection over.
func (s *succession) give(c *net.TCPConn, read []byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = s.next.Send(sayConn, read, int(fd)) }); err != nil {
		return err
	}
	return sent
}

// done says that nothing more comes.
func (s *succession) done() error {
	_ = s.next.Send(sayDone, nil) // it may be gone, and then needs nothing
	return s.next.Close()
}
