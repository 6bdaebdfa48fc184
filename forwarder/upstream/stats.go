// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/durations"
)

// Stats are the statistics of a [Group].
type Stats struct {
	Servers []ServerStats
}

// ServerStats are the statistics of one server since the Group was made.
type ServerStats struct {
	Server string // as [transport.Server.String] returns it

	transport.Stats

	// Addresses are those that the server's name resolves to; nil if it is known by address.
	Addresses []string

	Queries uint64 // attempts
	Replies uint64 // of those, the ones with a reply, whatever its rcode
	Failed  uint64 // of those, the ones that failed
	// Abandoned are the attempts whose query was canceled by the client or answered by a
	// faster server.
	Abandoned uint64

	// EWMA is how long its replies usually take; P95 is the time that nineteen in twenty
	// recent replies did not exceed. 0 if unknown.
	EWMA, P95 time.Duration

	// Failures counts failed attempts and connections by reason, see [transport.Failure]. A
	// connection that could not be opened counts once, whatever number of queries waited for it.
	Failures map[string]uint64

	// RoundTrips are the times of all replies since the Group was made.
	RoundTrips *durations.Counts

	Hedges     uint64 // queries sent to it because another server was late
	HedgesWon  uint64 // of those, the ones that it answered first
	Suspicions uint64 // how often it was silent, and others were asked as well
	Probes     uint64 // queries that checked whether it is healthy; included in Queries
	Suspect    bool   // it is silent now

	// Backoff is how long the server will still be asked only after the others because it
	// failed; 0 if it is healthy or may be tried again.
	Backoff time.Duration
	// LastError describes the latest failure; "" if it has been healthy since.
	LastError string
}

// endpointCounters are the live form of the counters in [ServerStats].
type endpointCounters struct {
	queries, replies, failed, abandoned   atomic.Uint64
	hedges, hedgesWon, suspicions, probes atomic.Uint64
	failures                              [transport.Failures]atomic.Uint64
	roundTrips                            durations.Histogram
}

// stats returns the current statistics of the server.
func (e *endpoint) stats(now time.Time) ServerStats {
	s := ServerStats{
		Server:  e.server.String(),
		Stats:   e.transport.Stats(),
		Queries: e.count.queries.Load(), Replies: e.count.replies.Load(),
		Failed: e.count.failed.Load(), Abandoned: e.count.abandoned.Load(),
		Hedges: e.count.hedges.Load(), HedgesWon: e.count.hedgesWon.Load(),
		Suspicions: e.count.suspicions.Load(), Probes: e.count.probes.Load(), Suspect: e.meter.IsSuspect(),
		EWMA: e.meter.Usual(), P95: e.meter.P95(),
		RoundTrips: e.count.roundTrips.Counts(), Failures: map[string]uint64{},
	}
	if e.resolved != nil {
		for _, a := range e.resolved.Addrs() {
			s.Addresses = append(s.Addresses, a.String())
		}
	}
	for n := range e.count.failures {
		if count := e.count.failures[n].Load(); count > 0 {
			s.Failures[transport.Failure(n).String()] = count
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Backoff = max(0, e.backoff.Until.Sub(now))
	if e.backoff.Failures > 0 {
		s.LastError = e.lastError
	}
	return s
}
