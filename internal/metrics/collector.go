// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sotto/forwarder"
	"sotto/internal/names"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// Source is where the figures come from.
type Source struct {
	Status func() status.Status
	Hub    *observe.Hub
}

// Collector is a [prometheus.Collector] of the figures of a running Sotto. It is safe for
// concurrent use.
type Collector struct {
	from      Source
	workloads selection
}

// NewCollector returns a Collector.
func NewCollector(from Source) *Collector { return &Collector{from: from} }

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	st := c.from.Status()
	s := sink{out: out, started: st.Started}
	s.set(buildInfo, 1, st.Version, runtime.Version())
	s.set(ready, truth(st.Ready))
	s.set(rules, float64(st.Rules))
	s.queries(c.from.Hub.Totals())
	s.load(&st.Load)
	for reason, n := range st.Queries.Unanswered {
		s.set(unanswered, float64(n), reason)
	}
	for _, w := range c.workloads.report(c.from.Hub.Workloads) {
		s.workload(&w, c.from.Hub.NameOf(w.Name))
	}
	if st.Cache != nil {
		s.cache(st.Cache)
	}
	if st.SharedCache != nil {
		s.sharedCache(st.SharedCache)
	}
	for _, g := range st.Groups {
		for _, u := range g.Servers {
			s.upstream(g.Name, &u)
		}
		if g.DNSSEC != nil {
			s.dnssec(g.Name, g.DNSSEC)
		}
	}
	if st.Seal != nil {
		s.seal(st.Seal)
	}
}

// sink sends metrics to the registry.
type sink struct {
	out     chan<- prometheus.Metric
	started time.Time
}

// set sends a counter or a gauge.
func (s *sink) set(m *Metric, v float64, labels ...string) {
	t := prometheus.CounterValue
	if m.Type == Gauge {
		t = prometheus.GaugeValue
	}
	metric, err := prometheus.NewConstMetric(m.desc, t, v, labels...)
	if err != nil { // a label is not UTF-8
		metric = prometheus.NewInvalidMetric(m.desc, err)
	}
	s.out <- metric
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (s *sink) queries(t observe.Totals) {
	s.set(tcpQueries, float64(t.TCP))
	for source := range t.BySource {
		from, name := &t.BySource[source], forwarder.Source(source).String()
		for rcode, n := range from.Rcodes {
			if n > 0 {
				s.set(queries, float64(n), name, observe.RcodeName(rcode))
			}
		}
		if from.Queries > 0 && forwarder.Source(source) != forwarder.FromKernel { // its durations are not known
			s.out <- newHistogram(queryDuration, &from.Counts, s.started, name)
		}
	}
}

// workload sends the counters of a workload, and the series that has its name. A workload without
// a name is called by its path there, so that a join with that series never loses a workload.
func (s *sink) workload(w *observe.WorkloadCounts, name names.Name) {
	path := label(w.Name)
	s.set(workloadQueries, float64(w.Queries), path)
	s.set(workloadFailed, float64(w.Failed), path)
	s.set(workloadCached, float64(w.Cached), path)
	s.set(workloadDuration, w.Seconds, path)
	text := path
	if name != (names.Name{}) {
		text = label(name.String())
	}
	s.set(workloadInfo, 1, path, text, string(name.Kind))
}

func (s *sink) load(l *status.Load) {
	s.set(refused, float64(l.Overloaded), "overloaded")
	s.set(refused, float64(l.OverShare), "over_share")
	s.set(inFlight, float64(l.Misses))
	s.set(waiting, float64(l.Waiting))
	s.set(connections, float64(l.TCP))
}

func (s *sink) cache(c *status.Cache) {
	s.set(cacheEntries, float64(c.Entries))
	s.set(cacheSize, float64(c.Bytes))
	s.set(cacheLimit, float64(c.MaxBytes))
	s.set(cacheLookups, float64(c.Hits), "hit")
	s.set(cacheLookups, float64(c.Stale), "stale")
	s.set(cacheLookups, float64(c.Misses), "miss")
	s.set(cachePrefetches, float64(c.Prefetches))
	s.set(cacheEvictions, float64(c.Evictions))
}

func (s *sink) sharedCache(c *status.SharedCache) {
	s.set(sharedUp, truth(c.State == "up"))
	for result, n := range map[string]uint64{
		"found": c.Found, "miss": c.Misses, "timeout": c.Timeouts, "error": c.Errors,
		"skipped": c.Skipped, "busy": c.Busy, "invalid": c.Invalid,
	} {
		s.set(sharedLookups, float64(n), result)
	}
	s.set(sharedWrites, float64(c.Written), "written")
	s.set(sharedWrites, float64(c.Dropped), "dropped")
}

func (s *sink) upstream(group string, u *status.Server) {
	for _, v := range []struct {
		m     *Metric
		value float64
	}{
		{upstreamUp, truth(u.State == "up")}, {upstreamUn, truth(u.Unauthenticated != "")},
		{upstreamQueries, float64(u.Queries)}, {upstreamFailed, float64(u.Failed)}, {upstreamInFlight, float64(u.InFlight)},
		{upstreamConns, float64(u.Connections)}, {upstreamDials, float64(u.Dials)}, {upstreamDialFailures, float64(u.DialErrors)},
		{upstreamResumed, float64(u.Resumed)},
	} {
		s.set(v.m, v.value, group, u.Server)
	}
	for reason, n := range u.Errors {
		s.set(upstreamErrors, float64(n), group, u.Server, reason)
	}
	if !u.CertExpiry.IsZero() {
		s.set(upstreamExpiry, float64(u.CertExpiry.Unix()), group, u.Server)
	}
	if u.RoundTrips != nil {
		s.out <- newHistogram(upstreamRoundTrip, u.RoundTrips, s.started, group, u.Server)
	}
	if u.Opened != nil {
		s.out <- newHistogram(upstreamOpened, u.Opened, s.started, group, u.Server)
	}
}

func (s *sink) kernelAnswers(k *status.KernelAnswers) {
	s.set(kernelAnswersOn, truth(k.State == "on"))
	s.set(kernelAnswersEntries, float64(k.Entries))
	s.set(kernelAnswersLimit, float64(k.MaxEntries))
	for verdict, n := range k.Verdicts {
		s.set(kernelAnswersQueries, float64(n), verdict)
	}
}

func (s *sink) seal(seal *status.Seal) {
	s.kernelAnswers(&seal.KernelAnswers)
	s.set(sealedCgroups, float64(len(seal.Cgroups)))
	s.set(slotsUsed, float64(seal.SlotsUsed))
	s.set(slotsLimit, float64(seal.SlotsTotal))
	for name, n := range seal.Counters {
		if status.IsGuard(name) {
			s.set(guardPackets, float64(n), name)
		} else {
			s.set(hookEvents, float64(n), name)
		}
	}
}
