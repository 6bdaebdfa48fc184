// SPDX-License-Identifier: Apache-2.0

package servertest

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/transport"
)

// Client sends queries through one transport. It is the transport's observer.
type Client struct {
	T                     transport.Transport
	DialFailures, Replies atomic.Int64
	Wait                  time.Duration // limits a query
	server                transport.Server
	maintenance           chan struct{}
}

// NewClient returns a client of the transport that create returns for cfg, in which zero
// values are replaced by defaults. The transport is closed when the test ends.
func NewClient(tb testing.TB, cfg transport.Config, create func(transport.Config) (transport.Transport, error)) *Client {
	tb.Helper()
	c := &Client{Wait: 3500 * time.Millisecond, server: cfg.Server, maintenance: make(chan struct{}, 1)}
	defaults := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	defaults(&cfg.DialTimeout, 3500*time.Millisecond)
	defaults(&cfg.SilentTimeout, 2*time.Second)
	defaults(&cfg.WarmTime, 3*time.Minute)
	defaults(&cfg.MaxAge, time.Hour)
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 2
	}
	if cfg.MaxInflight == 0 {
		cfg.MaxInflight = 4096
	}
	if cfg.RootCAs == nil {
		cfg.RootCAs = CA().Pool
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Observer = c
	t, err := create(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	c.T = t
	tb.Cleanup(t.Close)
	return c
}

// Exchange sends a query, and describes failures as a group does.
func (c *Client) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	started := time.Now()
	if deadline := started.Add(c.Wait); deadline.Before(until) {
		until = deadline
	}
	w := transport.NewTimer()
	defer w.Stop()
	reply, err := c.T.Exchange(ctx, query, until, w)
	if err != nil {
		return nil, transport.NewError(c.server, time.Since(started), err)
	}
	return reply, nil
}

// BytesRead implements [transport.Observer].
func (c *Client) BytesRead(int64) {}

// Replied implements [transport.Observer].
func (c *Client) Replied(int64, int64) { c.Replies.Add(1) }

// DialFailed implements [transport.Observer].
func (c *Client) DialFailed(time.Time, error) { c.DialFailures.Add(1) }

// MaintenanceDue implements [transport.Observer].
func (c *Client) MaintenanceDue() {
	select {
	case c.maintenance <- struct{}{}:
	default:
	}
}

// Run maintains the transport until ctx is canceled, as if queries were always expected.
func (c *Client) Run(ctx context.Context) {
	for {
		c.T.Maintain(ctx, time.Now(), true)
		select {
		case <-ctx.Done():
			return
		case <-c.maintenance:
		}
	}
}

// MustBeSlow sends a query to a server that answers once release is closed, which this function
// does when the silence timeout has passed: another connection accepts queries then. It fails unless
// the reply is accepted on the first one. queries returns the number of queries that the server got.
func MustBeSlow(tb testing.TB, c *Client, release chan struct{}, queries func() int64) {
	tb.Helper()
	c.Wait = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := Ask(tb, c, "slow.example.")
		done <- err
	}()
	Eventually(tb, "the query is in flight", func() bool { return queries() >= 1 })
	Eventually(tb, "there is another connection", func() bool {
		c.T.Maintain(tb.Context(), time.Now(), true)
		return c.T.Stats().Conns == 2
	})
	close(release)
	if err := <-done; err != nil {
		tb.Error(err)
	}
	Eventually(tb, "the first connection closes", func() bool { return c.T.Stats().Conns == 1 })
	if st := c.T.Stats(); st.Lost != 0 || st.Resent != 0 || queries() != 1 {
		tb.Errorf("stats %+v, and the server got %d queries: want one, which is not lost", st, queries())
	}
}
