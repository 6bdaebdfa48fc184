// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"sync/atomic"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/durations"
)

const (
	// maxRcode is the highest rcode that is counted separately: BADCOOKIE (RFC 7873).
	maxRcode = 23

	// shards spread the counters over cache lines, so that processors do not wait for each
	// other. It is a power of two.
	shards = 8
)

// totals counts all queries.
type totals [shards]struct {
	rcodes    [forwarder.Sources][maxRcode + 2]atomic.Uint64 // the last one: all higher rcodes
	durations [forwarder.Sources]durations.Histogram
	tcp       atomic.Uint64
	_         [64]byte
}

func (t *totals) add(e *forwarder.Event) {
	s := &t[e.Client.Port()%shards]
	s.rcodes[e.Source][min(e.Rcode, maxRcode+1)].Add(1)
	s.durations[e.Source].Add(e.Duration)
	if e.TCP {
		s.tcp.Add(1)
	}
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
	// Counts are their durations.
	durations.Counts
}

// RcodeName names element n of [SourceCounts].Rcodes.
func RcodeName(n int) string {
	if n > maxRcode {
		return Other
	}
	return wire.RcodeName(uint16(n))
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
			s.durations[source].AddTo(&o.Counts)
		}
	}
	return out
}
