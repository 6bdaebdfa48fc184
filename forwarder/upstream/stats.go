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
	// Abandoned are those that were given up, by a client or since another
	// server was sooner.
	Abandoned uint64
	Late      uint64 // replies to queries that were given up
	Resent    uint64 // queries sent again on another connection to it
	Lost      uint64 // queries in flight when a connection ended
	Strays    uint64 // replies that matched no query
	Writes    uint64 // system calls that queries left in

	Dials      uint64 // connections tried
	DialErrors uint64 // of them, those that failed
	Resumed    uint64 // of them, those that resumed a TLS session

	// EWMA is how long its replies usually take, P95 what nineteen in twenty did
	// not exceed lately; 0: nothing is known yet.
	EWMA, P95 time.Duration

	Hedges     uint64 // queries sent to it since another server was late
	HedgesWon  uint64 // of them, those that it answered first
	Suspicions uint64 // how often it was silent, and others were asked in its place
	Probes     uint64 // queries sent to see whether it is well; among Queries
	Suspect    bool   // it is silent now

	// Unauthenticated is why the server of the latest connection, which the profile
	// [Opportunistic] let pass, could not be authenticated; "": it was.
	Unauthenticated string

	// Rest is how long the server will still be asked only after the others,
	// since it failed; 0: it is well, or may be tried again.
	Rest time.Duration
	// LastError is what it last failed with; "" if it did not since it was
	// last well.
	LastError string
}

// serverCounters are the live form of the numbers in [ServerStats], with what
// makes the times.
type serverCounters struct {
	queries, replies, failed atomic.Uint64
	resent, lost, strays     atomic.Uint64
	writes                   atomic.Uint64
	dials, dialErrors        atomic.Uint64
	resumed                  atomic.Uint64

	abandoned, late    atomic.Uint64
	hedges, hedgesWon  atomic.Uint64
	suspicions, probes atomic.Uint64

	meter meter
}

// stats is the endpoint at a glance.
func (e *endpoint) stats(now time.Time) ServerStats {
	s := ServerStats{
		Server:  e.server.String(),
		Queries: e.count.queries.Load(), Replies: e.count.replies.Load(), Failed: e.count.failed.Load(),
		Resent: e.count.resent.Load(), Lost: e.count.lost.Load(), Strays: e.count.strays.Load(),
		Writes: e.count.writes.Load(),
		Dials:  e.count.dials.Load(), DialErrors: e.count.dialErrors.Load(),
		Resumed: e.count.resumed.Load(), Abandoned: e.count.abandoned.Load(), Late: e.count.late.Load(),
		Hedges: e.count.hedges.Load(), HedgesWon: e.count.hedgesWon.Load(),
		Suspicions: e.count.suspicions.Load(), Probes: e.count.probes.Load(), Suspect: e.count.meter.isSuspect(),
		EWMA: time.Duration(e.count.meter.usual.Load()), P95: e.count.meter.quantile95(),
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
