// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// Stats are a server's counters since it was made.
type Stats struct {
	UDP, TCP, TLS uint64 // queries read, by transport
	Conns         uint64 // stream connections accepted
	Open          int64  // of them, those open now
	Handshakes    uint64 // TLS handshakes that succeeded
	Failed        uint64 // TLS handshakes that did not
	Resumed       uint64 // TLS handshakes that resumed a session
	Reads         uint64 // reads that brought data; over TLS one record each
	MaxRead       uint64 // the largest of them, in bytes
}

// Queries is the number of queries over all transports.
func (s Stats) Queries() uint64 { return s.UDP + s.TCP + s.TLS }

// Logged is one query in a server's log.
type Logged struct {
	Transport Transport
	Remote    netip.AddrPort
	Conn      uint64
	Query     []byte // as it came in
	Name      string // presentation form, lower case; "" if it could not be read
	Type      uint16
}

// counters are the live form of [Stats].
type counters struct {
	queries    [3]atomic.Uint64
	conns      atomic.Uint64
	open       atomic.Int64
	handshakes atomic.Uint64
	failed     atomic.Uint64
	resumed    atomic.Uint64
	reads      atomic.Uint64
	maxRead    atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		UDP:        c.queries[UDP].Load(),
		TCP:        c.queries[TCP].Load(),
		TLS:        c.queries[TLS].Load(),
		Conns:      c.conns.Load(),
		Open:       c.open.Load(),
		Handshakes: c.handshakes.Load(),
		Failed:     c.failed.Load(),
		Resumed:    c.resumed.Load(),
		Reads:      c.reads.Load(),
		MaxRead:    c.maxRead.Load(),
	}
}

// read counts one read of n bytes.
func (c *counters) read(n int) {
	c.reads.Add(1)
	for {
		old := c.maxRead.Load()
		if uint64(n) <= old || c.maxRead.CompareAndSwap(old, uint64(n)) {
			return
		}
	}
}

// queryLog keeps the first queries, up to a limit.
type queryLog struct {
	mu    sync.Mutex
	limit int
	seen  []Logged
}

func (l *queryLog) add(r *Request) {
	if l.limit == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) >= l.limit {
		return
	}
	e := Logged{Transport: r.Transport, Remote: r.Remote, Conn: r.Conn}
	e.Query = append(e.Query, r.Query...)
	if q, ok := parse(e.Query); ok {
		e.Name, e.Type = q.nameString(), q.qtype
	}
	l.seen = append(l.seen, e)
}

func (l *queryLog) entries() []Logged {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Logged(nil), l.seen...)
}
