// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"os"
	"time"
)

// A connection's life, apart from its failures: it is used, it may be idle for as
// long as its server likes (RFC 7828), and at last it is retired: it gets no more
// queries, answers those that it has, and closes. All of that is decided where it
// reads, by how long the next read may last.

// lifetime is how old a connection gets: at most max, and up to a quarter less, by
// random in [0,1).
func lifetime(limit time.Duration, random float64) time.Duration {
	return limit - time.Duration(float64(limit)*random/4)
}

// watched reads from a connection for as long as that is worth it.
type watched struct{ c *conn }

func (w watched) Read(p []byte) (int, error) {
	for {
		if err := w.c.await(time.Now()); err != nil {
			return 0, err
		}
		n, err := w.c.nc.Read(p)
		if n > 0 {
			w.c.hear(time.Now())
			return n, nil // the error comes again
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || w.c.overdue(time.Now()) {
			return 0, err
		}
		// What was waited for has changed since. crypto/tls takes up reading where
		// the deadline interrupted it.
	}
}

// hear notes that bytes came. It is called by the reader.
func (c *conn) hear(now time.Time) {
	c.readAt = now
	c.heard.Store(ticks(now))
	c.count.meter.heard.Store(ticks(now))
}

// await sets how long the server may be silent from now on: briefly while it owes
// replies, otherwise as long as it keeps the connection. An error: there is nothing
// more to wait for, and no query comes any more.
func (c *conn) await(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.table.len() > 0:
		c.arm(now)
		return nil
	case c.retired.Load():
		return errRetired
	case c.idle > 0:
		until := c.used().Add(c.idle)
		if !now.Before(until) {
			c.retired.Store(true)
			return errIdle
		}
		c.armed = false
		_ = c.nc.SetReadDeadline(until) // an error means: closed, which Read learns
	case c.armed:
		c.armed = false
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	return nil
}

// arm gives the server until the deadline to send something, or leaves it the little
// less that it has, because moving a deadline costs as much as reading a reply. c.mu
// is held.
func (c *conn) arm(now time.Time) {
	if c.armed && c.patience.Sub(now) > c.silent-c.silent/16 {
		return
	}
	c.armed = true
	c.patience = now.Add(c.silent)
	_ = c.nc.SetReadDeadline(c.patience)
}

// overdue reports whether the server owed something and was silent for too long.
func (c *conn) overdue(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.armed && !now.Before(c.patience)
}

// keepFor takes what the server says of idle connections (RFC 7828 §3.3.2): it
// closes them after that time; 0: it wants this one closed now. The client is to
// be first, so that no query meets the server's close. c.mu is held.
func (c *conn) keepFor(timeout time.Duration) {
	if timeout == 0 {
		c.retired.Store(true) // await ends it when it owes nothing
		return
	}
	c.idle = beforehand(timeout)
}

// beforehand is how long a connection may be unused if the server closes it after
// that timeout: by so much less that a query on its way still arrives.
func beforehand(timeout time.Duration) time.Duration {
	return timeout - min(max(timeout/4, 50*time.Millisecond), time.Second)
}

// writeEnded ends the connection, unless its server did. Then replies may lie here
// that were sent before, which the reader takes until it meets the end, at once: a
// write fails like that when a reset has come.
func (c *conn) writeEnded(err error) {
	if !isCut(err) {
		c.end(err)
		return
	}
	c.mu.Lock()
	c.retired.Store(true)
	c.mu.Unlock()
}

// countSent counts a query, and retires the connection with the last one that it
// takes. c.mu is held.
func (c *conn) countSent() {
	c.sent++
	if c.limit == 0 {
		return
	}
	c.worn.Store(c.sent >= c.limit/2)
	if c.sent >= c.limit {
		c.retired.Store(true)
	}
}

// leave has a retired connection end when the last query has been given up. c.mu is
// held.
func (c *conn) leave() {
	if c.retired.Load() && c.table.len() == 0 {
		c.interrupt()
	}
}

// retire lets the connection take no more queries; it ends when it owes no reply.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired.Store(true)
	c.leave()
}

// retireUnused retires the connection, for its caller to end it, if nobody used it
// for longer than that.
func (c *conn) retireUnused(now time.Time, limit time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table.len() > 0 || now.Sub(c.used()) <= limit {
		return false
	}
	c.retired.Store(true)
	return true
}

// interrupt has the reader look again at what it waits for. c.mu is held.
func (c *conn) interrupt() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }

// used is when the connection was last used. c.mu is held.
func (c *conn) used() time.Time {
	last := c.opened
	if c.lastSent.After(last) {
		last = c.lastSent
	}
	if c.lastReply.After(last) {
		last = c.lastReply
	}
	return last
}
