// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"errors"
	"os"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/secure"
	"sotto/forwarder/upstream/transport"
)

// A connection that does not fail is used, may be idle for as long as its server allows
// (RFC 7828), and is finally drained: it gets no more queries, delivers the pending
// replies and closes. The reader enforces all of this by the deadline of its next read.

// lifetime returns the age at which a connection is replaced: limit, or up to a quarter
// less, by random in [0,1), so that connections opened together are not all replaced
// together.
func lifetime(limit time.Duration, random float64) time.Duration {
	return limit - time.Duration(float64(limit)*random/4)
}

// timedReader reads from a connection with the deadlines that apply to it.
type timedReader struct{ c *conn }

func (r timedReader) Read(p []byte) (int, error) {
	for {
		if err := r.c.prepareRead(time.Now()); err != nil {
			return 0, err
		}
		n, err := r.c.nc.Read(p)
		if n > 0 {
			r.c.recordRead(time.Now())
			return n, nil // the next read returns the error again
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || r.c.overdue(time.Now()) {
			return 0, err
		}
		// The deadline was only moved, or set to interrupt the read. crypto/tls resumes
		// reading where the deadline interrupted it.
	}
}

// recordRead records that bytes arrived. Only the reader calls it.
func (c *conn) recordRead(now time.Time) {
	c.readAt = now
	c.lastRead.Store(transport.Ticks(now))
	c.observer.BytesRead(transport.Ticks(now))
}

// prepareRead sets the deadline of the next read: the silence timeout if replies are
// pending, otherwise the idle timeout. It returns an error if there is nothing to wait
// for any more; no query will be sent then.
func (c *conn) prepareRead(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.table.len() > 0:
		if !c.slow {
			c.startTimeout(now)
		}
		return nil
	case c.draining.Load():
		return errDrained
	case c.idleTimeout > 0:
		until := c.lastUsed().Add(c.idleTimeout)
		if !now.Before(until) {
			c.draining.Store(true)
			return conns.ErrIdle
		}
		c.timed = false
		_ = c.nc.SetReadDeadline(until) // it fails if closed; then Read fails as well
	case c.timed:
		c.timed = false
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	return nil
}

// startTimeout gives the server the silence timeout, from now, to send something. It
// keeps a deadline that is only a little earlier, because moving a deadline costs as
// much as reading a reply. c.mu is held.
func (c *conn) startTimeout(now time.Time) {
	if c.timed && c.deadline.Sub(now) > c.silentTimeout-c.silentTimeout/16 {
		return
	}
	c.timed = true
	c.deadline = now.Add(c.silentTimeout)
	_ = c.nc.SetReadDeadline(c.deadline)
}

// overdue reports whether replies are pending, the server was silent for too long, and the
// path may be dead. If the server's kernel has acknowledged the queries, the connection only
// accepts no more of them: a slow reply is better than none. It closes when the pending
// ones are answered or their time is up.
func (c *conn) overdue(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.timed || now.Before(c.deadline) {
		return false
	}
	if c.raw == nil || !secure.Acknowledged(c.raw.acker.raw) {
		return true
	}
	c.slow, c.timed = true, false
	c.draining.Store(true)
	_ = c.nc.SetReadDeadline(time.Time{})
	return false
}

// setIdleTimeout applies the idle timeout that the server announced (RFC 7828 §3.3.2).
// Zero means that the server wants this connection closed now. c.mu is held.
func (c *conn) setIdleTimeout(timeout time.Duration) {
	if timeout == 0 {
		c.draining.Store(true) // prepareRead closes it when no reply is pending
		return
	}
	c.idleTimeout = clientTimeout(timeout)
}

// clientTimeout returns how long the client keeps a connection that its server closes
// after an idle timeout. It is shorter by a margin that lets a query on its way still
// arrive, so that the client closes first.
func clientTimeout(server time.Duration) time.Duration {
	return server - min(max(server/4, 50*time.Millisecond), time.Second)
}

// handleWriteError closes the connection, unless the server did. In that case replies
// that it sent before may still be in the socket: the reader takes them and then meets
// the end. (After a reset a write fails before the reader has read everything.)
func (c *conn) handleWriteError(err error) {
	if !isCut(err) {
		c.Close(err)
		return
	}
	c.mu.Lock()
	c.draining.Store(true)
	c.mu.Unlock()
}

// countSent counts a query, and starts draining the connection with the last query that
// the server accepts. c.mu is held.
func (c *conn) countSent() {
	c.sent++
	if c.queryLimit == 0 {
		return
	}
	c.halfUsed.Store(c.sent >= c.queryLimit/2)
	if c.sent >= c.queryLimit {
		c.draining.Store(true)
	}
}

// DrainIfUnused starts draining the connection, for its caller to close it, if it has
// been unused for longer than limit. It reports whether it did.
func (c *conn) DrainIfUnused(now time.Time, limit time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table.len() > 0 || now.Sub(c.lastUsed()) <= limit {
		return false
	}
	c.draining.Store(true)
	return true
}

// Expire marks the connection as expired if it has reached its age, and reports whether
// it has.
func (c *conn) Expire(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.expires) {
		return false
	}
	c.expired = true
	return true
}

// DrainIfExpired lets a connection that was marked as expired accept no more queries. It
// closes when no reply is pending.
func (c *conn) DrainIfExpired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired {
		c.draining.Store(true)
		c.interruptIfDrained()
	}
}

// interruptIfDrained interrupts the reader, which then closes the connection, if it is
// draining and no query is in flight any more. c.mu is held.
func (c *conn) interruptIfDrained() {
	if c.draining.Load() && c.table.len() == 0 {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// lastUsed returns when the connection was last used. c.mu is held.
func (c *conn) lastUsed() time.Time {
	last := c.opened
	if c.lastSent.After(last) {
		last = c.lastSent
	}
	if c.lastReply.After(last) {
		last = c.lastReply
	}
	return last
}
