// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"context"
	"sync"
	"time"

	"sotto/forwarder"
	"sotto/internal/observe"
	"sotto/internal/status"
)

const (
	interval   = 5 * time.Second // between samples
	maxSamples = 61              // five minutes
	rateSpan   = 6               // intervals over which current rates are measured: half a minute

	// maxWorkloads is how many workloads a sample and the page have.
	maxWorkloads = 30
)

// Source is where the figures come from.
type Source struct {
	Status func() status.Status
	Groups func() []status.Group // of Status
	Hub    *observe.Hub
}

// History keeps samples of the last minutes.
type History struct {
	from Source

	mu      sync.Mutex
	samples []*sample
	totals  observe.Totals // at the latest sample
}

// sample has the counters at some time.
type sample struct {
	at        time.Time
	sources   [forwarder.Sources]uint64
	failed    uint64
	p50, p99  time.Duration // of replies of upstreams since the previous sample
	workloads map[string]observe.WorkloadCounts
	servers   map[serverKey]uint64 // queries
}

type serverKey struct{ group, server string }

// NewHistory returns an empty History.
func NewHistory(from Source) *History { return &History{from: from} }

// Run takes samples until ctx ends.
func (h *History) Run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for h.sample(time.Now()); ; {
		select {
		case now := <-tick.C:
			h.sample(now)
		case <-ctx.Done():
			return
		}
	}
}

// sample takes one sample.
func (h *History) sample(now time.Time) {
	totals := h.from.Hub.Totals()
	workloads := h.from.Hub.Workloads()
	groups := h.from.Groups()
	s := &sample{at: now, workloads: map[string]observe.WorkloadCounts{}, servers: map[serverKey]uint64{}}
	for source := range totals.BySource {
		s.sources[source] = totals.BySource[source].Queries
	}
	for _, w := range workloads {
		s.failed += w.Failed
	}
	for _, w := range workloads[:min(len(workloads), 4*maxWorkloads)] {
		w.Queries -= w.Forgotten // they were counted before
		s.workloads[w.Name] = w
	}
	for _, g := range groups {
		for _, u := range g.Servers {
			s.servers[serverKey{g.Name, u.Server}] = u.Queries
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) > 0 {
		replies := totals.BySource[forwarder.FromUpstream].Sub(&h.totals.BySource[forwarder.FromUpstream].Counts)
		s.p50, s.p99 = replies.Quantile(0.5), replies.Quantile(0.99)
	}
	h.totals = totals
	if len(h.samples) == maxSamples {
		h.samples = h.samples[1:]
	}
	h.samples = append(h.samples, s)
}

// series are the samples at one moment, the oldest first.
type series []*sample

func (h *History) series() series {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(series(nil), h.samples...)
}

// rates returns the rates per second between each two samples of a counter.
func (s series) rates(counter func(*sample) uint64) []float64 {
	var out []float64
	for i := 1; i < len(s); i++ {
		out = append(out, rate(s[i-1], s[i], counter))
	}
	return out
}

// current returns the rate per second of a counter during the last half minute.
func (s series) current(counter func(*sample) uint64) float64 {
	if len(s) < 2 {
		return 0
	}
	return rate(s[max(0, len(s)-1-rateSpan)], s[len(s)-1], counter)
}

// rate returns the rate between two samples. A counter that is smaller than before counts from
// zero again.
func rate(from, to *sample, counter func(*sample) uint64) float64 {
	before, now := counter(from), counter(to)
	if now < before {
		before = 0
	}
	return float64(now-before) / to.at.Sub(from.at).Seconds()
}

// Counters of a sample.

func bySource(sources ...forwarder.Source) func(*sample) uint64 {
	return func(s *sample) (n uint64) {
		for _, source := range sources {
			n += s.sources[source]
		}
		return n
	}
}

func all(s *sample) (n uint64) {
	for _, v := range s.sources {
		n += v
	}
	return n
}

func failed(s *sample) uint64 { return s.failed }

func ofWorkload(name string) func(*sample) uint64 {
	return func(s *sample) uint64 { return s.workloads[name].Queries }
}

func ofServer(key serverKey) func(*sample) uint64 {
	return func(s *sample) uint64 { return s.servers[key] }
}
