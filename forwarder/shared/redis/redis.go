// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"

	"sotto/forwarder/shared"
)

// errNoConnection is for a request while all connections are in use or closed.
var errNoConnection = errors.New("no connection to the server")

// Config says how to connect. Only Address is required.
type Config struct {
	Address  string // host and port
	Username string // of an access control list; "": the default user
	Password string // "": do not authenticate
	Database int
	TLS      *tls.Config // nil: no TLS

	// Control, if set, is called for each socket before it connects ([net.Dialer] Control).
	Control func(network, address string, c syscall.RawConn) error
}

// Store is a set of connections to one server. It is safe for concurrent use.
type Store struct {
	cfg  Config
	idle chan *conn
	open atomic.Int32 // connections, those in use included
}

// conn is one connection.
type conn struct {
	redis.Conn
	net *replies
}

// New returns a Store without connections. The caller closes it.
func New(cfg Config) *Store {
	return &Store{cfg: cfg, idle: make(chan *conn, shared.Connections)}
}

// Close closes the connections. No request may be in flight, and none may follow.
func (s *Store) Close() error {
	var errs []error
	for {
		select {
		case c := <-s.idle:
			errs = append(errs, c.Close())
		default:
			return errors.Join(errs...)
		}
	}
}

// Get implements [shared.Store].
func (s *Store) Get(ctx context.Context, names []string, limit int) ([][]byte, error) {
	values := make([][]byte, 0, len(names))
	err := s.request(ctx, func(c *conn) error {
		c.net.limit = limit
		for _, name := range names {
			// GET would read all of a value that another program made very long.
			if err := c.Send("GETRANGE", name, 0, limit-1); err != nil {
				return err
			}
		}
		if err := c.Flush(); err != nil {
			return err
		}
		for range names {
			v, err := redis.Bytes(c.receive(ctx))
			if err != nil && !isAboutEntry(err) {
				return err
			}
			if len(v) == 0 { // it does not exist
				v = nil
			}
			values = append(values, v)
		}
		return nil
	})
	return values, err
}

// isAboutEntry reports whether err concerns one entry, which another program has made a list,
// for example, and not the server.
func isAboutEntry(err error) bool {
	var refused redis.Error
	return errors.As(err, &refused) && strings.HasPrefix(string(refused), "WRONGTYPE ")
}

// Set implements [shared.Store].
func (s *Store) Set(ctx context.Context, entries []shared.Entry) error {
	var refused error
	err := s.request(ctx, func(c *conn) error {
		for _, e := range entries {
			if err := c.Send("SET", e.Name, e.Value, "PX", max(e.Keep.Milliseconds(), 1)); err != nil {
				return err
			}
		}
		if err := c.Flush(); err != nil {
			return err
		}
		for range entries {
			_, err := c.receive(ctx)
			switch {
			case errors.As(err, new(redis.Error)):
				refused = fmt.Errorf("%w: %w", shared.ErrRefused, err)
			case err != nil:
				return err
			}
		}
		return nil
	})
	return errors.Join(err, refused)
}

// Ping implements [shared.Store]. It asks on all connections at the same time, and replaces those
// that do not answer.
func (s *Store) Ping(ctx context.Context) error {
	var wg sync.WaitGroup
	for range len(s.idle) {
		c, err := s.take()
		if err != nil {
			break // requests use the others
		}
		wg.Go(func() {
			_ = s.use(ctx, c, func(c *conn) error { return c.do(ctx, "PING") }) // after an error it is closed
		})
	}
	wg.Wait()
	for s.open.Load() < shared.Connections {
		c, err := s.dial(ctx)
		if err != nil {
			return err
		}
		s.open.Add(1)
		s.idle <- c
	}
	return ctx.Err()
}

// request calls use with a connection that is not in use.
func (s *Store) request(ctx context.Context, f func(c *conn) error) error {
	c, err := s.take()
	if err != nil {
		return err
	}
	return s.use(ctx, c, f)
}

// take returns a connection that is not in use. The caller passes it to use.
func (s *Store) take() (*conn, error) {
	select {
	case c := <-s.idle:
		return c, nil
	default:
		return nil, errNoConnection
	}
}

// use calls f with c, which is idle afterwards. After an error it closes c, because replies may
// follow that nothing waits for.
func (s *Store) use(ctx context.Context, c *conn, f func(c *conn) error) error {
	until, _ := ctx.Deadline()
	err := c.net.SetWriteDeadline(until)
	if err == nil {
		err = f(c)
	}
	if err != nil {
		s.open.Add(-1)
		return errors.Join(err, c.Close())
	}
	s.idle <- c
	return nil
}

// dial opens a connection.
func (s *Store) dial(ctx context.Context) (_ *conn, err error) {
	plain := &net.Dialer{Control: s.cfg.Control}
	var n net.Conn
	if s.cfg.TLS == nil {
		n, err = plain.DialContext(ctx, "tcp", s.cfg.Address)
	} else {
		n, err = (&tls.Dialer{NetDialer: plain, Config: s.cfg.TLS}).DialContext(ctx, "tcp", s.cfg.Address)
	}
	if err != nil {
		return nil, err
	}
	checked := &replies{Conn: n}
	c := &conn{redis.NewConn(checked, 0, 0), checked}
	until, _ := ctx.Deadline()
	if err = n.SetWriteDeadline(until); err == nil {
		err = s.greet(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// greet authenticates, selects the database, and waits until the server answers.
func (s *Store) greet(ctx context.Context, c *conn) error {
	if s.cfg.Password != "" {
		args := []any{s.cfg.Password}
		if s.cfg.Username != "" {
			args = []any{s.cfg.Username, s.cfg.Password}
		}
		if err := c.do(ctx, "AUTH", args...); err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
	}
	if s.cfg.Database != 0 {
		if err := c.do(ctx, "SELECT", s.cfg.Database); err != nil {
			return fmt.Errorf("select database %d: %w", s.cfg.Database, err)
		}
	}
	return c.do(ctx, "PING")
}

// do sends one command and waits for its reply.
func (c *conn) do(ctx context.Context, command string, args ...any) error {
	if err := c.Send(command, args...); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	_, err := c.receive(ctx)
	return err
}

// receive waits for the next reply, until ctx's deadline.
func (c *conn) receive(ctx context.Context) (any, error) {
	until, _ := ctx.Deadline()
	// At least a nanosecond, because 0 means no limit.
	return redis.ReceiveWithTimeout(c.Conn, max(time.Until(until), 1))
}
