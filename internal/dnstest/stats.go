// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// Stats holds the counters of a server since its creation.
type Stats struct {
	UDP, TCP, TLS uint64 // queries read, by transport
	Conns         uint64 // stream connections accepted
	Open          int64  // of them, currently open
	Handshakes    uint64 // TLS handshakes that succeeded
	Failed        uint64 // TLS handshakes that failed
	Resumed       uint64 // TLS handshakes that resumed a session
	Reads         uint64 // reads that returned data; over TLS one record each
	MaxRead       uint64 // size of the largest read in bytes
}

// Queries returns the number of queries over all transports.
func (s Stats) Queries() uint64 { return s.UDP + s.TCP + s.TLS }

// Logged is one entry of a server's query log.
type Logged struct {
	Transport Transport
	Remote    netip.AddrPort
	Conn      uint64
	Query     []byte // the message as received
	Name      string // presentation form, lower case; "" if the message is malformed
	Type      uint16
}

// counters holds the live values of [Stats].
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

// queryLog stores the first queries, up to a limit.
type queryLog struct {
	mu    sync.Mutex
	limit int
	first []Logged
}

func (l *queryLog) add(r *Request) {
	if l.limit == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.first) >= l.limit {
		return
	}
	e := Logged{Transport: r.Transport, Remote: r.Remote, Conn: r.Conn}
	e.Query = append(e.Query, r.Query...)
	if q, ok := parse(e.Query); ok {
		e.Name, e.Type = q.nameString(), q.qtype
	}
	l.first = append(l.first, e)
}

func (l *queryLog) entries() []Logged {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Logged(nil), l.first...)
}
