// SPDX-License-Identifier: Apache-2.0

package upstream

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

	"sotto/forwarder/wire"
)

// maxStrays is how many replies in a row may match no query before the
// connection is given up. Late replies to queries of which too many were given up
// are among them, so it is not small.
const maxStrays = 1024

// fewInFlight is up to how many queries in flight an acknowledgement is not left to
// wait for the next query: with more, that one comes soon, and a packet for each read
// would cost a fifth of the throughput.
const fewInFlight = 8

// conn is one authenticated connection, shared by everybody. Two goroutines run
// it, one that writes and one that reads; either ends it for both.
type conn struct {
	nc      *tls.Conn
	raw     *gather         // below nc
	silent  time.Duration   // without a byte for so long, with queries in flight, it is dead
	ended   func(c *conn)   // called once, before the queries in flight hear of it
	count   *serverCounters // the server's
	opened  time.Time
	old     time.Time    // when it is to be replaced
	aged    bool         // it waits for its replacement; the pool's, under its lock
	limit   int          // of queries that it takes; 0: not known
	load    atomic.Int32 // queries in flight
	retired atomic.Bool  // it takes no more queries; set under mu
	worn    atomic.Bool  // half of its queries are used up
	heard   atomic.Int64 // when the latest byte came, in ticks; 0: none did
	readAt  time.Time    // the same, for the reader alone

	mu        sync.Mutex
	table     inflight
	out       []byte        // frames to be written
	spare     []byte        // room for the next ones
	writing   bool          // somebody is at it
	err       error         // why it ended; nil: it lives
	armed     bool          // silence is being timed
	patience  time.Time     // until when, if armed
	idle      time.Duration // the server closes it when it is unused for so long; 0: not known
	lastSent  time.Time
	lastReply time.Time // of a reply that matched
	sent      int       // queries
	replies   int       // that matched
	cut       bool      // the server closed it with queries in flight
	strays    int       // replies in a row that did not
	odd       bool      // the latest message was one of them

	wake chan struct{} // there is something to write
	done chan struct{} // closed at the end
}

func newConn(cfg *Config, nc *tls.Conn, raw *gather, count *serverCounters, ended func(*conn)) *conn {
	now := time.Now()
	c := &conn{
		nc: nc, raw: raw, silent: cfg.SilentTimeout, ended: ended, count: count,
		opened: now, old: now.Add(lifetime(cfg.MaxAge, rand.Float64())),
		table: newInflight(cfg.MaxInflight),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	if raw != nil { // nothing is below what a test reads from
		raw.owes = func() bool { n := c.load.Load(); return 0 < n && n <= fewInFlight }
	}
	return c
}

// run serves the connection until it ends.
func (c *conn) run() {
	var wg sync.WaitGroup
	wg.Go(func() { c.writeEnded(c.write()) })
	c.end(c.read(watched{c}))
	wg.Wait()
}

// exchange sends a query and waits with w for its reply until the deadline. The
// query is not referred to after the return.
func (c *conn) exchange(ctx context.Context, query []byte, until time.Time, w *waiter) ([]byte, error) {
	k := calls.Get().(*call)
	defer k.release()
	now := time.Now()
	k.query, k.sent = query, ticks(now)
	id, err := c.send(k, now)
	if err != nil {
		return nil, err
	}
	if err = w.await(ctx, k.done, now, until, &c.heard); err == nil {
		return k.reply, k.err
	}
	c.mu.Lock()
	mine := c.table.abandon(id, k)
	c.leave()
	odd := c.odd && !c.lastReply.After(now)
	c.mu.Unlock()
	if !mine { // the reply came at the same moment
		<-k.done
		return k.reply, k.err
	}
	c.load.Add(-1)
	if odd && isTimeout(err) {
		err = errStrays
	}
	return nil, err
}

// send enters k into the table and its query into what is to be written.
func (c *conn) send(k *call, now time.Time) (uint16, error) {
	c.mu.Lock()
	if c.err != nil || c.retired.Load() {
		c.mu.Unlock()
		return 0, errGone
	}
	id, ok := c.table.add(k)
	if !ok {
		c.mu.Unlock()
		return 0, errFull
	}
	c.load.Add(1)
	c.out = appendFrame(c.out, k.query, id)
	c.lastSent = now
	c.countSent()
	if !c.armed {
		c.arm(now)
	}
	alone := c.table.len() == 1 && !c.writing
	c.mu.Unlock()
	if !alone {
		c.rouse()
	} else if err := c.flush(true); err != nil {
		c.writeEnded(err) // k hears of it
	}
	return id, nil
}

// read takes replies until the stream fails.
func (c *conn) read(stream io.Reader) error {
	r := newFrameReader(stream)
	for {
		msg, err := r.next()
		if err != nil {
			return silence(err)
		}
		if err := checkReply(msg); err != nil {
			return err
		}
		if err := c.deliver(msg); err != nil {
			return err
		}
	}
}

// silence is what a deadline that passed says of the server.
func silence(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrSilent
	}
	return err
}

// deliver hands a reply to the call that waits for it.
func (c *conn) deliver(msg []byte) error {
	id := uint16(msg[0])<<8 | uint16(msg[1])
	idle, told := wire.Keepalive(msg)
	c.mu.Lock()
	k := c.table.get(id)
	if k == nil {
		if sent, ok := c.table.late(id); ok { // nobody waits any more, but it is no stray
			c.strays, c.odd = 0, false
			c.mu.Unlock()
			c.count.late.Add(1)
			c.count.meter.replied(sent, ticks(c.readAt))
			return nil
		}
	}
	if k == nil || !matches(k.query, msg) {
		c.strays++
		c.odd = true
		tooMany := c.strays > maxStrays
		c.mu.Unlock()
		c.count.strays.Add(1)
		if tooMany {
			return errStrays
		}
		return nil
	}
	if isBare(msg) {
		msg = withQuestion(k.query, msg)
	}
	c.table.remove(id, k)
	c.strays, c.odd = 0, false
	c.replies++
	c.lastReply = c.readAt
	if told {
		c.keepFor(idle)
	}
	c.mu.Unlock()
	c.load.Add(-1)
	c.count.meter.replied(k.sent, ticks(c.readAt))
	msg[0], msg[1] = 0, 0
	k.finish(msg, nil)
	return nil
}

// answeredSince reports whether a reply came after that time.
func (c *conn) answeredSince(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastReply.After(t)
}

// proven reports whether the connection was good before a query was sent on it
// at that time: it brought a reply, or had been open for a while. What is lost
// on it then says nothing about the server.
func (c *conn) proven(sent time.Time) bool {
	const settled = time.Second
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.lastReply.IsZero() || sent.Sub(c.opened) > settled
}

// end closes the connection for that reason, unless it has ended already. The
// queries in flight fail, for their callers to send them elsewhere.
func (c *conn) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if err == nil {
		err = io.EOF
	}
	c.err = err
	lost := c.table.drain()
	c.cut = len(lost) > 0 && isCut(err)
	c.out = nil
	c.mu.Unlock()
	close(c.done)
	c.ended(c)
	for _, k := range lost {
		c.load.Add(-1)
		k.finish(nil, &lostError{cause: err})
	}
	if len(lost) > 0 {
		c.count.lost.Add(uint64(len(lost)))
	}
	// It is gone either way. close_notify could block on a path that is dead.
	if errors.Is(err, ErrSilent) || errors.Is(err, errNetwork) {
		_ = c.nc.NetConn().Close()
		return
	}
	_ = c.nc.Close()
}

// obituary is after how many replies the server cut the connection, else 0, and
// why it ended.
func (c *conn) obituary() (cutAfter int, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		cutAfter = c.replies
	}
	return cutAfter, c.err
}
