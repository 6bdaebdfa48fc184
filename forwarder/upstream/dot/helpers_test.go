// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// Defaults of the tests.
const (
	warmTime = 3 * time.Minute
	maxAge   = time.Hour
)

// client sends queries through a Pool. It is the pool's observer.
type client struct {
	pool        *Pool
	cfg         transport.Config
	maintenance chan struct{}
	wait        time.Duration // limits a query

	queries, replies, failed atomic.Uint64

	mu        sync.Mutex
	lastError string
}

// newClient returns a client of that server, by name and with the tests' CA.
func newClient(tb testing.TB, s *dnstest.Server) *client {
	tb.Helper()
	return clientOf(tb, transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}})
}

// clientOf returns a client with that configuration, in which zero values are replaced by
// defaults.
func clientOf(tb testing.TB, cfg transport.Config) *client {
	tb.Helper()
	c := newUnclosed(cfg)
	tb.Cleanup(c.pool.Close)
	return c
}

// newUnclosed is clientOf for a test that closes the pool itself.
func newUnclosed(cfg transport.Config) *client {
	setDefault(&cfg.MaxConns, 2)
	setDefault(&cfg.MaxInflight, 4096)
	setDefault(&cfg.DialTimeout, 3500*time.Millisecond)
	setDefault(&cfg.SilentTimeout, 2*time.Second)
	setDefault(&cfg.WarmTime, warmTime)
	setDefault(&cfg.MaxAge, maxAge)
	if cfg.RootCAs == nil {
		cfg.RootCAs = servertest.CA().Pool
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &client{cfg: cfg, maintenance: make(chan struct{}, 1), wait: 3500 * time.Millisecond}
	cfg.Observer = c
	c.pool = New(cfg)
	return c
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Exchange sends a query, and describes failures as a group does.
func (c *client) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	started := time.Now()
	if deadline := started.Add(c.wait); deadline.Before(until) {
		until = deadline
	}
	w := transport.NewTimer()
	defer w.Stop()
	c.queries.Add(1)
	reply, err := c.pool.Exchange(ctx, query, until, w)
	if err != nil {
		c.failed.Add(1)
		e := transport.NewError(c.cfg.Server, time.Since(started), err)
		if !errors.Is(err, transport.ErrOverloaded) { // not the server's fault
			c.setLastError(e.Reason)
		}
		return nil, e
	}
	c.replies.Add(1)
	c.setLastError("")
	return reply, nil
}

// run maintains the pool until ctx is canceled, as if queries were always expected.
func (c *client) run(ctx context.Context) {
	for {
		c.pool.Maintain(ctx, time.Now(), true)
		select {
		case <-ctx.Done():
			return
		case <-c.maintenance:
		}
	}
}

// clientStats are the statistics of the pool and of the client.
type clientStats struct {
	transport.Stats
	Queries, Replies, Failed uint64
	LastError                string
}

func (c *client) stats() clientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return clientStats{
		Stats: c.pool.Stats(), Queries: c.queries.Load(), Replies: c.replies.Load(), Failed: c.failed.Load(),
		LastError: c.lastError,
	}
}

func (c *client) setLastError(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastError = s
}

func (c *client) BytesRead(int64)      {}
func (c *client) Replied(int64, int64) {}
func (c *client) DialFailed(_ time.Time, err error) {
	c.setLastError(transport.Reason(c.cfg.Server, 0, err))
}
func (c *client) MaintenanceDue() {
	select {
	case c.maintenance <- struct{}{}:
	default:
	}
}

// setLastWarm sets when maintenance last opened a connection.
func (p *Pool) setLastWarm(at time.Time) { p.conns.SetLastWarm(at) }

// firstConn returns the first connection.
func (p *Pool) firstConn() *conn { return p.conns.Conns()[0] }
