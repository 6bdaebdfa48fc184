// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// maxStrays is how many replies in a row may match no query before the connection is
// closed. Replies to queries that were abandoned and are no longer remembered count as
// well, so it is not small.
const maxStrays = 1024

// fewInFlight is the number of queries in flight up to which an acknowledgement is sent
// without waiting for the next query to carry it: with more, that query comes soon, and
// a packet for each read would cost a fifth of the throughput.
const fewInFlight = 8

// Reasons for closing a connection.
var (
	errConnClosed = errors.New("the connection is closed")
	errDrained    = errors.New("the connection was replaced, or its server no longer wants it")
)

// conn is one authenticated connection, shared by all queries. It has two goroutines, a
// writer and a reader; either may close it.
type conn struct {
	nc            *tls.Conn
	raw           *gather           // below nc
	silentTimeout time.Duration     // with queries in flight and no bytes for this long, it is dead
	onClose       func(*conn)       // called once, before the queries in flight fail
	refusal       func(error) error // explains an alert; nil: as it is
	count         *counters         // of the pool
	tap           *connTap          // nil if there is none
	observer      transport.Observer
	opened        time.Time
	expires       time.Time    // when it is to be replaced
	queryLimit    int          // number of queries that the server accepts; 0 if unknown
	load          atomic.Int32 // queries in flight and those about to be sent
	draining      atomic.Bool  // it accepts no more queries; set under mu
	halfUsed      atomic.Bool  // half of queryLimit is used up
	lastRead      atomic.Int64 // when the latest byte arrived, in ticks; 0 if none did
	readAt        time.Time    // the same, for the reader alone

	mu          sync.Mutex
	table       inflight
	out         []byte        // frames to be written
	spare       []byte        // an empty buffer for the next ones
	writing     bool          // a goroutine is writing
	closeErr    error         // why it was closed; nil if it is open
	expired     bool          // it is drained as soon as its replacement is open
	slow        bool          // it was silent for too long, but works: it waits for pending replies
	lost        int           // queries in flight when it closed
	timed       bool          // a reply is pending and has to arrive by deadline
	deadline    time.Time     // if timed
	idleTimeout time.Duration // it is closed when unused for this long; 0 if the server named no time
	lastSent    time.Time
	lastReply   time.Time // of a reply that matched
	sent        int       // queries
	replies     int       // that matched
	cut         bool      // the server closed it with queries in flight
	strays      int       // replies in a row that matched no query
	lastStray   bool      // the latest message was one of those

	wake chan struct{} // there are frames to be written
	done chan struct{} // closed when the connection is
}

func newConn(cfg *transport.Config, nc *tls.Conn, raw *gather, count *counters, onClose func(*conn)) *conn {
	now := time.Now()
	c := &conn{
		nc: nc, raw: raw, silentTimeout: cfg.SilentTimeout, onClose: onClose, count: count, observer: cfg.Observer,
		opened: now, expires: now.Add(lifetime(cfg.MaxAge, rand.Float64())),
		table: newInflight(cfg.MaxInflight),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	if raw != nil { // a test may have no socket
		raw.writeTimeout = c.silentTimeout
		raw.expectsData = func() bool { n := c.load.Load(); return 0 < n && n <= fewInFlight }
	}
	return c
}

// Run serves the connection until it closes.
func (c *conn) Run() {
	var wg sync.WaitGroup
	wg.Go(func() { c.handleWriteError(c.writeLoop()) })
	c.Close(c.readLoop(timedReader{c}))
	wg.Wait()
}

// Accepts, Tired, Load, Reserve and Opened implement [conns.Conn].
func (c *conn) Accepts() bool     { return !c.draining.Load() }
func (c *conn) Tired() bool       { return c.halfUsed.Load() }
func (c *conn) Load() int         { return int(c.load.Load()) }
func (c *conn) Reserve()          { c.load.Add(1) }
func (c *conn) Opened() time.Time { return c.opened }

// release takes back one query from the load.
func (c *conn) release() { c.load.Add(-1) }

// roundTrip sends a query, which the caller has counted in the load, and waits with w
// for its reply until the deadline. It does not refer to the query after it returns, and
// the query is released by then.
func (c *conn) roundTrip(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	k := calls.Get().(*call)
	defer k.free()
	now := time.Now()
	k.query, k.sent = query, transport.Ticks(now)
	id, err := c.send(k, now)
	if err != nil {
		c.release()
		return nil, err
	}
	if err = w.Wait(ctx, k.done, now, until, &c.lastRead); err == nil {
		return k.reply, k.err
	}
	c.mu.Lock()
	abandoned := c.table.abandon(id, k)
	c.interruptIfDrained()
	stray, silent := c.lastStray && !c.lastReply.After(now), c.slow && !c.lastReply.After(now)
	c.mu.Unlock()
	if !abandoned { // the reply arrived at the same moment
		<-k.done
		return k.reply, k.err
	}
	c.release()
	if stray && transport.IsTimeout(err) {
		err = transport.ErrMismatch
	} else if silent && transport.IsTimeout(err) {
		err = transport.ErrSilent
	}
	return nil, err
}

// send enters k in the table and queues its query for writing.
func (c *conn) send(k *call, now time.Time) (uint16, error) {
	c.mu.Lock()
	if c.closeErr != nil || c.draining.Load() {
		c.mu.Unlock()
		return 0, errConnClosed
	}
	id, ok := c.table.add(k)
	if !ok {
		c.mu.Unlock()
		return 0, transport.ErrOverloaded
	}
	start := len(c.out)
	c.out = appendQuery(c.out, k.query, id)
	c.tap.query(c.out[start+wire.FrameHeaderLen:], now)
	c.lastSent = now
	c.countSent()
	if !c.timed {
		c.startTimeout(now)
	}
	alone := c.table.len() == 1 && !c.writing
	c.mu.Unlock()
	if !alone {
		c.wakeWriter()
	} else if err := c.flush(true); err != nil {
		c.handleWriteError(err) // k receives it, too
	}
	return id, nil
}

// readLoop handles replies until the stream fails.
func (c *conn) readLoop(stream io.Reader) error {
	r := newFrameReader(stream)
	for {
		msg, err := r.next()
		if err != nil {
			return silentIfDeadline(err)
		}
		if err := transport.CheckReply(msg); err != nil {
			if err := c.discard(msg, err); err != nil {
				return err
			}
			continue
		}
		if err := c.deliver(msg); err != nil {
			return err
		}
	}
}

// silentIfDeadline returns [transport.ErrSilent] in place of an exceeded I/O deadline.
func silentIfDeadline(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return transport.ErrSilent
	}
	return err
}

// deliver passes a reply to the call that waits for it.
func (c *conn) deliver(msg []byte) error {
	id := wire.ID(msg)
	timeout, hasTimeout := wire.Keepalive(msg)
	c.mu.Lock()
	k := c.table.get(id)
	if k == nil {
		if sent, ok := c.table.late(id); ok { // its query was abandoned
			c.strays, c.lastStray = 0, false
			c.mu.Unlock()
			c.count.late.Add(1)
			c.tap.reply(msg, sent, c.readAt)
			c.observer.Replied(sent, transport.Ticks(c.readAt))
			return nil
		}
	}
	if k == nil || !transport.Matches(k.query, msg) {
		c.strays++
		c.lastStray = true
		tooMany := c.strays > maxStrays
		c.mu.Unlock()
		c.count.strays.Add(1)
		if tooMany {
			return transport.ErrMismatch
		}
		return nil
	}
	c.tap.reply(msg, k.sent, c.readAt)
	var unusable error
	if transport.IsBare(msg) {
		if transport.IsBareError(msg) {
			msg = transport.WithQuestion(k.query, msg)
		} else {
			unusable = transport.ErrUnusable
		}
	}
	c.table.remove(id, k)
	c.strays, c.lastStray = 0, false
	c.replies++
	c.lastReply = c.readAt
	if hasTimeout {
		c.setIdleTimeout(timeout)
	}
	c.mu.Unlock()
	c.release()
	c.count.lastReply.Store(c.readAt.UnixNano())
	c.observer.Replied(k.sent, transport.Ticks(c.readAt))
	if unusable != nil {
		k.finish(nil, unusable)
		return nil
	}
	wire.SetID(msg, 0)
	k.finish(msg, nil)
	return nil
}

// discard handles a message that is no reply. If it has the ID and, as far as it can be
// read, the question of a query, it is the server's answer to that, which fails; other
// queries are not affected. A connection that delivers other such messages, and has
// delivered no reply, is not one to a DNS server: discard returns the reason.
func (c *conn) discard(msg []byte, reason error) error {
	c.mu.Lock()
	var k *call
	if len(msg) >= 2 {
		k = c.table.get(wire.ID(msg))
	}
	if k != nil && (len(msg) < wire.HeaderLen || wire.SameQuestion(k.query, msg)) {
		c.table.remove(wire.ID(msg), k)
		c.lastReply = c.readAt
		c.mu.Unlock()
		c.count.strays.Add(1)
		c.release()
		k.finish(nil, transport.ErrUnusable)
		return nil
	}
	c.strays++
	tooMany := c.strays > maxStrays || c.replies == 0
	c.lastStray = true
	c.mu.Unlock()
	c.count.strays.Add(1)
	if tooMany {
		return reason
	}
	return nil
}

// repliedSince reports whether a reply arrived after t.
func (c *conn) repliedSince(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastReply.After(t)
}

// proven reports whether the connection worked before a query was sent on it at that
// time: it delivered a reply, or had been open for a while. Losing it then does not mean
// that the server has failed.
func (c *conn) proven(sent time.Time) bool {
	const settled = time.Second
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.lastReply.IsZero() || sent.Sub(c.opened) > settled
}

// Close closes the connection for that reason, unless it is closed already. The queries
// in flight fail, and their callers send them elsewhere.
func (c *conn) Close(reason error) {
	c.mu.Lock()
	if c.closeErr != nil {
		c.mu.Unlock()
		return
	}
	switch {
	case reason == nil:
		reason = io.EOF
	case c.refusal != nil:
		reason = c.refusal(reason)
	}
	c.closeErr = reason
	lost := c.table.removeAll()
	c.lost = len(lost)
	c.cut = len(lost) > 0 && isCut(reason)
	c.out = nil
	c.mu.Unlock()
	close(c.done)
	c.onClose(c)
	for _, k := range lost {
		c.release()
		k.finish(nil, &transport.LostError{Err: reason})
	}
	if len(lost) > 0 {
		c.count.lost.Add(uint64(len(lost)))
	}
	// Errors do not matter any more. On a dead path close_notify could block.
	if errors.Is(reason, transport.ErrSilent) || errors.Is(reason, transport.ErrNetworkChanged) {
		_ = c.nc.NetConn().Close()
		return
	}
	_ = c.nc.Close()
}

// closeReason returns why the connection closed, and the number of replies after which
// the server closed it with queries in flight; 0 if it did not.
func (c *conn) closeReason() (cutAfter int, reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		cutAfter = c.replies
	}
	return cutAfter, c.closeErr
}
