// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync/atomic"
	"time"
)

// Stats is a [Group] at a glance.
type Stats struct {
	Servers []ServerStats
}

// ServerStats is what happened with one server since the Group was made.
type ServerStats struct {
	Server   string // as [Server.String] has it
	Conns    int    // connections open now
	InFlight int    // queries in flight now

	Queries uint64 // attempts to ask it
	Replies uint64 // of them, those that brought a reply, whatever its rcode
	Failed  uint64 // of them, those that ended in an error
	Resent  uint64 // queries sent again on another connection to it
	Lost    uint64 // queries in flight when a connection ended
	Strays  uint64 // replies that matched no query
	Writes  uint64 // system calls that queries left in

	Dials      uint64 // connections tried
	DialErrors uint64 // of them, those that failed
	Resumed    uint64 // of them, those that resumed a TLS session

	// Rest is how long the server will still be asked only after the others,
	// since it failed; 0: it is well, or may be tried again.
	Rest time.Duration
	// LastError is what it last failed with; "" if it did not since it was
	// last well.
	LastError string
}

// serverCounters are the live form of the numbers in [ServerStats].
type serverCounters struct {
	queries, replies, failed atomic.Uint64
	resent, lost, strays     atomic.Uint64
	writes                   atomic.Uint64
	dials, dialErrors        atomic.Uint64
	resumed                  atomic.Uint64
}

// stats is the endpoint at a glance.
func (e *endpoint) stats(now time.Time) ServerStats {
	s := ServerStats{
		Server:  e.server.String(),
		Queries: e.count.queries.Load(), Replies: e.count.replies.Load(), Failed: e.count.failed.Load(),
		Resent: e.count.resent.Load(), Lost: e.count.lost.Load(), Strays: e.count.strays.Load(),
		Writes: e.count.writes.Load(),
		Dials:  e.count.dials.Load(), DialErrors: e.count.dialErrors.Load(),
		Resumed: e.count.resumed.Load(),
	}
	e.link.stats(&s)
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Rest = max(0, e.health.until.Sub(now))
	if e.health.failures > 0 {
		s.LastError = e.lastError
	}
	return s
}
