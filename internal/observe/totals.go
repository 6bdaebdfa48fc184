// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

const (
	// maxRcode is the highest rcode that is counted separately: BADCOOKIE (RFC 7873).
	maxRcode = 23

	// buckets is the number of buckets of durations: bucket n has those below 2^n µs. The
	// last one has the rest, from about 8 s.
	buckets = 24

	// shards spread the counters over cache lines, so that processors do not wait for each
	// other. It is a power of two.
	shards = 8
)

// totals counts all queries.
type totals [shards]struct {
	rcodes    [forwarder.Sources][maxRcode + 2]atomic.Uint64 // the last one: all higher rcodes
	durations [forwarder.Sources][buckets]atomic.Uint64
	micros    [forwarder.Sources]atomic.Uint64
	tcp       atomic.Uint64
	_         [64]byte
}

func (t *totals) add(e *forwarder.Event) {
	s := &t[e.Client.Port()%shards]
	s.rcodes[e.Source][min(e.Rcode, maxRcode+1)].Add(1)
	s.durations[e.Source][bucketOf(e.Duration)].Add(1)
	s.micros[e.Source].Add(uint64(e.Duration.Microseconds()))
	if e.TCP {
		s.tcp.Add(1)
	}
}

func bucketOf(d time.Duration) int {
	return min(bits.Len64(uint64(max(d.Microseconds(), 0))), buckets-1)
}

// failed reports whether the client got an error that a working upstream would not cause.
func failed(e *forwarder.Event) bool { return e.Err != nil || e.Rcode == wire.RcodeServFail }

// Totals are the counts of all queries since the start.
type Totals struct {
	Queries  uint64
	TCP      uint64
	BySource [forwarder.Sources]SourceCounts
}

// SourceCounts are the counts of the replies of one source.
type SourceCounts struct {
	Queries uint64
	Rcodes  [maxRcode + 2]uint64 // by rcode; the last element has all higher ones
	// Buckets has, for each n, the number of replies that took less than 2^n µs and at least
	// half of that. The last one has all longer ones.
	Buckets [buckets]uint64
	Seconds float64 // the sum of their durations
}

// Totals returns the current counts. They are read one after the other.
func (h *Hub) Totals() (out Totals) {
	for n := range h.total {
		s := &h.total[n]
		out.TCP += s.tcp.Load()
		for source := range s.rcodes {
			o := &out.BySource[source]
			for rcode := range s.rcodes[source] {
				v := s.rcodes[source][rcode].Load()
				o.Rcodes[rcode] += v
				o.Queries += v
				out.Queries += v
			}
			for b := range s.durations[source] {
				o.Buckets[b] += s.durations[source][b].Load()
			}
			o.Seconds += float64(s.micros[source].Load()) / 1e6
		}
	}
	return out
}

// Quantile returns an upper bound of the time that the share q of the replies did not exceed,
// within a factor of two; 0 if there are none.
func (c *SourceCounts) Quantile(q float64) time.Duration {
	want := uint64(math.Ceil(q * float64(c.Queries)))
	sum := uint64(0)
	for n, v := range c.Buckets {
		if sum += v; sum > 0 && sum >= want {
			return time.Duration(1<<n) * time.Microsecond
		}
	}
	return 0
}

// BucketLimit returns the upper limit of bucket n.
func BucketLimit(n int) time.Duration { return time.Duration(1<<n) * time.Microsecond }
