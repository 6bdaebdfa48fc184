// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// Some servers close the connection when they are asked for a certain name. Every query on
// it is lost then, and which of them was the cause is not visible. A query that was lost
// twice is therefore sent on one of a few further connections, the lanes, which it chooses
// at random each time: the cause takes only those in the same lane with it, an eighth each
// time, until it is alone. Then it gets a lane of its own, and if that is closed too, the
// name is kept off the connections that others use.

const (
	// lanes is the number of these connections, and of the ones for a single query each.
	// They are in addition to [transport.Config.MaxConns], are opened only when needed, and
	// closed after laneIdle.
	lanes    = 8
	laneIdle = 5 * time.Second

	// suspicious is the number of connections that were closed with a query in flight from
	// which it is sent on a lane. Usually the cause is not a query: the server closes
	// connections after a number of queries, or restarts.
	suspicious = 2

	// unlucky is the number from which it gets a lane of its own even if it was never alone:
	// the cause may close all lanes before others on them are answered.
	unlucky = 5

	// checkPause is how long the result of a check is valid.
	checkPause = 250 * time.Millisecond

	// convictTime is how long a name is remembered, and maxConvicts how many are.
	convictTime = 30 * time.Second
	maxConvicts = 256
)

// losses are the connections that one query has lost.
type losses struct {
	resends int   // how often it was sent again
	cuts    int   // connections that the server closed with it in flight
	alone   bool  // the latest of those had no other query in flight
	own     *lane // the lane that it has for itself; nil if it has none
}

// quarantine has the lanes, and the names for which the server closes the connection.
type quarantine struct {
	mu       sync.Mutex
	lane     [2 * lanes]lane // the second half is for a single query each
	closed   bool            // to new lanes
	check    *check          // the latest; nil before the first
	seed     maphash.Seed
	convicts map[uint64]time.Time // until when, by the hash of the question
}

// lane has at most one connection that accepts queries.
type lane struct {
	*conns.Set[*conn]      // nil until it is needed
	taken             bool // by the query that has it for itself
}

// check finds out whether a server answers anything.
type check struct {
	done  chan struct{}
	works bool      // set before done is closed
	ended time.Time // likewise
}

// isConvict reports whether the server is known to close the connection for that question.
func (q *quarantine) isConvict(query []byte, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.convicts) == 0 {
		return false
	}
	until, ok := q.convicts[q.hash(query)]
	return ok && now.Before(until)
}

// convict records that the server closes the connection for that question.
func (q *quarantine) convict(query []byte, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.convicts == nil {
		q.convicts, q.seed = map[uint64]time.Time{}, maphash.MakeSeed()
	}
	if len(q.convicts) >= maxConvicts {
		for old := range q.convicts { // any
			delete(q.convicts, old)
			break
		}
	}
	q.convicts[q.hash(query)] = now.Add(convictTime)
}

// reset forgets the names.
func (q *quarantine) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.convicts)
}

// hash returns the hash of the name and type of a query, whatever the case of the name.
func (q *quarantine) hash(query []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(q.seed)
	for off := wire.HeaderLen; off < len(query); {
		n := int(query[off])
		if n == 0 || n > wire.MaxLabel {
			_, _ = h.Write(query[off:min(off+3, len(query))])
			break
		}
		for _, c := range query[off:min(off+1+n, len(query))] {
			_ = h.WriteByte(wire.Lower(c))
		}
		off += 1 + n
	}
	return h.Sum64()
}

// resend decides about a query that was sent at that time on c, which was lost with that
// error. It returns nil if the query is to be sent again. A server that does not answer
// other queries either has failed.
func (p *Pool) resend(ctx context.Context, c *conn, l *losses, query []byte, sent, until time.Time, w transport.Waiter, err error) error {
	if errors.Is(err, transport.ErrNetworkChanged) {
		return nil
	}
	if l.resends++; l.resends > maxResends || !c.proven(sent) && !(isCut(err) && p.works(ctx, c, until, w)) {
		return err
	}
	if !isCut(err) {
		return nil
	}
	if l.own != nil {
		p.convict(query, time.Now())
		return transport.ErrNameCloses
	}
	l.cuts++
	c.mu.Lock()
	l.alone = c.lost == 1
	c.mu.Unlock()
	return nil
}

// works reports whether the server, which closed c before it replied on it, answers
// queries: on another connection since c was opened, or a probe on one of its own. Queries
// that were lost together share the probe.
func (p *Pool) works(ctx context.Context, c *conn, until time.Time, w transport.Waiter) bool {
	switch last := p.count.lastReply.Load(); {
	case last == 0:
		return false // it never did
	case last > c.opened.UnixNano():
		return true
	}
	q := &p.quarantine
	q.mu.Lock()
	k := q.check
	if k == nil || k.isOver(time.Now()) {
		k = &check{done: make(chan struct{})}
		q.check = k
		if !p.conns.Go(func() { p.probe(context.WithoutCancel(ctx), k, until) }) {
			close(k.done)
		}
	}
	q.mu.Unlock()
	return w.Wait(ctx, k.done, time.Now(), until, nil) == nil && k.works
}

// isOver reports whether a check has ended, and another one may be made.
func (k *check) isOver(now time.Time) bool {
	select {
	case <-k.done:
		return now.Sub(k.ended) > checkPause
	default:
		return false
	}
}

// probe asks the server for what it certainly knows, on a connection of its own.
func (p *Pool) probe(ctx context.Context, k *check, until time.Time) {
	defer close(k.done)
	w := transport.NewTimer()
	defer w.Stop()
	started := time.Now()
	dialCtx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	c, err := p.open(dialCtx, p.conns.Remove)
	cancel()
	if err != nil {
		p.cfg.Observer.DialFailed(started, err)
		k.ended = time.Now()
		return
	}
	if !p.conns.Go(c.Run) {
		c.Close(transport.ErrClosed)
		return
	}
	c.Reserve()
	_, err = c.roundTrip(ctx, transport.ProbeQuery, until, w)
	c.Close(conns.ErrIdle)
	k.works, k.ended = err == nil, time.Now()
}

// reserveLane returns the connection of a lane for a query that was lost before, on which the query
// is counted. The caller calls release.
func (p *Pool) reserveLane(ctx context.Context, l *losses, until time.Time, w transport.Waiter) (*conn, error) {
	if err := p.conns.DialError(); err != nil {
		return nil, err
	}
	set, err := p.chooseLane(l)
	if err != nil {
		return nil, err
	}
	return set.Reserve(ctx, until, w)
}

// chooseLane chooses the lane of a query. One that was lost alone, or often, gets its own, unless all
// are taken.
func (p *Pool) chooseLane(l *losses) (*conns.Set[*conn], error) {
	q := &p.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, transport.ErrClosed
	}
	n := l.own
	for i := lanes; n == nil && (l.alone || l.cuts >= unlucky) && i < 2*lanes; i++ {
		if other := &q.lane[i]; !other.taken {
			n, l.own, other.taken = other, other, true
		}
	}
	if n == nil {
		n = &q.lane[rand.IntN(lanes)]
	}
	if n.Set == nil {
		cfg := p.cfg
		cfg.MaxConns = 1
		n.Set = conns.New(&cfg, laneIdle, &p.count.opened, p.open)
	}
	return n.Set, nil
}

// releaseLane makes the lane of a query available to others.
func (p *Pool) releaseLane(l *losses) {
	if l.own != nil {
		p.quarantine.mu.Lock()
		l.own.taken = false
		p.quarantine.mu.Unlock()
	}
}

// openLanes returns the lanes that were needed until now.
func (q *quarantine) openLanes() (list []*conns.Set[*conn]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.lane {
		if q.lane[i].Set != nil {
			list = append(list, q.lane[i].Set)
		}
	}
	return list
}

// closeLanes closes all lanes, which it returns.
func (q *quarantine) closeLanes() []*conns.Set[*conn] {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	list := q.openLanes()
	for _, l := range list {
		l.Close()
	}
	return list
}
