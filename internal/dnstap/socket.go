// SPDX-License-Identifier: Apache-2.0

package dnstap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"sotto/internal/ratelog"
)

const (
	// retryTime is the pause before another attempt to connect.
	retryTime = time.Second

	// socketTimeout limits the handshake, and the time for which a receiver may not read.
	socketTimeout = 5 * time.Second

	// closeTimeout limits what is left to do at the end.
	closeTimeout = time.Second
)

// socket is the output to a program that listens on a Unix socket.
type socket struct {
	*buffer
	cfg  *Config
	warn ratelog.Limiter
	now  *session // nil if there is no connection; belongs to run
}

// session is an accepted connection.
type session struct {
	net.Conn
	finished chan struct{} // the receiver has sent FINISH or disconnected
}

func newSocket(cfg *Config) *socket { return &socket{buffer: newBuffer(), cfg: cfg} }

// run connects, and writes frames, until ctx is canceled. It connects again after an error.
func (s *socket) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.connect(ctx)
		if err == nil {
			err = s.send(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if s.warn.Allow(time.Now()) {
			s.cfg.Log.Warn("no dnstap receiver: trying to connect every second", "socket", s.cfg.Socket, "err", err, "lost_total", s.lost.Load())
		}
		select {
		case <-time.After(retryTime):
		case <-ctx.Done():
		}
	}
	return nil
}

// connect opens a session.
func (s *socket) connect(ctx context.Context) error {
	d := net.Dialer{Timeout: socketTimeout}
	c, err := d.DialContext(ctx, "unix", s.cfg.Socket)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the user that Sotto runs as must be able to write to the socket, without capabilities", err)
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err = handshake(c); err != nil {
		return errors.Join(fmt.Errorf("start a stream: %w", err), c.Close())
	}
	now := &session{c, make(chan struct{})}
	go func() {
		defer close(now.finished)
		_, _ = readControl(c, controlFinish)
	}()
	s.now = now
	s.cfg.Log.Info("connected to the dnstap receiver", "socket", s.cfg.Socket)
	return nil
}

// handshake starts a stream in both directions.
func handshake(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(socketTimeout)); err != nil {
		return err
	}
	if _, err := c.Write(appendControl(nil, controlReady, true)); err != nil {
		return err
	}
	named, err := readControl(c, controlAccept)
	if err != nil {
		return err
	}
	if !named {
		return fmt.Errorf("the receiver does not accept %s", contentType)
	}
	if _, err := c.Write(appendControl(nil, controlStart, true)); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

var errDisconnected = errors.New("the receiver has disconnected")

// send writes frames until the connection fails, and then closes it. When ctx is canceled, it
// leaves the connection open for close.
func (s *socket) send(ctx context.Context) (err error) {
	c := s.now.Conn
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Now().Add(closeTimeout)) })
	defer stop()
	for ctx.Err() == nil && err == nil {
		select {
		case <-s.wake:
			err = s.flush(socketTimeout)
		case <-s.now.finished:
			err = errDisconnected
		case <-ctx.Done():
		}
	}
	if err != nil {
		s.disconnect()
	}
	return err
}

// flush writes all frames. If that fails before the first byte, as when the receiver has
// exited, they wait for the next connection. Otherwise how much the receiver has read is not
// known, so all of them count as lost.
func (s *socket) flush(timeout time.Duration) error {
	frames, count := s.take()
	n, err := 0, s.now.SetWriteDeadline(time.Now().Add(timeout))
	if err == nil {
		n, err = s.now.Write(frames)
	}
	if err != nil && n == 0 {
		s.restore(frames, count)
	} else {
		s.done(frames, count, err)
	}
	return err
}

// discard counts what is left as lost.
func (s *socket) discard() {
	frames, count := s.take()
	s.done(frames, count, errDisconnected)
}

// disconnect closes the connection.
func (s *socket) disconnect() {
	_ = s.now.Close()
	<-s.now.finished
	s.now = nil
}

// close sends the rest and ends the stream, if there is a connection. run has returned.
func (s *socket) close() error {
	if s.now == nil {
		s.discard()
		return nil
	}
	defer s.disconnect()
	err := s.flush(closeTimeout)
	s.discard()
	if err == nil {
		_, err = s.now.Write(appendControl(nil, controlStop, false))
	}
	if err != nil {
		return fmt.Errorf("end the dnstap stream to %s: %w", s.cfg.Socket, err)
	}
	select {
	case <-s.now.finished:
	case <-time.After(closeTimeout):
	}
	return nil
}
