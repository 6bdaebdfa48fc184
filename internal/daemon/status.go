// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/upstream"
	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// maxWorkloads is how many workloads the status lists.
const maxWorkloads = 100

// ready reports whether queries are answered and, if there is a seal, redirected.
func (d *daemon) ready() bool { return d.handover == nil || d.handover.seal.inst.Info().Attached }

// status describes the process as it is now.
func (d *daemon) status() status.Status {
	p := d.current()
	s := status.Status{
		Version: d.Version, Started: d.started, PID: os.Getpid(), Ready: d.ready(),
		Rules: len(p.Rules.Uses), Groups: d.groupStatuses(p), Messages: d.recent.Messages(),
	}
	if d.handover != nil {
		s.Seal = d.sealStatus(d.handover.seal.inst)
	}
	if c := d.resolver.cache; c != nil {
		st := c.Stats()
		s.Cache = &status.Cache{
			Entries: st.Entries, Bytes: st.Bytes, MaxBytes: p.Cache.MaxBytes, Hits: st.Hits, Stale: st.Stale,
			Misses: st.Misses, Prefetches: st.Prefetches, Evictions: st.Evictions,
		}
	}
	load := d.resolver.Stats()
	s.Load = status.Load{Misses: load.Misses, Waiting: load.Waiting, TCP: load.Conns, Overloaded: load.Overloaded, OverShare: load.OverShare}
	s.Outputs = d.outputs.status()
	s.Queries = queryStatus(d.hub.Totals())
	workloads := d.hub.Workloads()
	s.Workloads = workloads[:min(len(workloads), maxWorkloads)]
	for i := range s.Workloads {
		s.Workloads[i].WorkloadName = d.workloadName(s.Workloads[i].Name)
	}
	return s
}

func (d *daemon) groupStatuses(p config.Plan) []status.Group {
	out := []status.Group{}
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		g := p.Groups[name]
		out = append(out, groupStatus(name, g.Config.Policy, d.resolver.groups.stats(g.Key)))
	}
	return out
}

func (d *daemon) sealStatus(inst *intercept.Instance) *status.Seal {
	info := inst.Info()
	s := &status.Seal{
		Cgroups: info.Cgroups, Exclude: info.Exclude, Prefix4: info.Prefix4, Prefix6: info.Prefix6,
		Guard: info.Guard.String(), LocalResolvers: info.LocalResolvers.String(), Counters: inst.Counters(),
	}
	if s.Exclude == nil {
		s.Exclude = []string{}
	}
	s.SlotsUsed, s.SlotsTotal = d.slots.count(inst, d.log)
	return s
}

// slotsAge is how old the number of slots in use may be: counting them takes milliseconds.
const slotsAge = 5 * time.Second

// slotCount is the number of slots in use.
type slotCount struct {
	mu          sync.Mutex
	at          time.Time
	used, total int
}

// count returns how many slots are in use, at most slotsAge ago, and how many there are.
func (c *slotCount) count(inst *intercept.Instance, log *slog.Logger) (used, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > slotsAge {
		var err error
		if c.used, c.total, err = inst.Slots(); err != nil {
			log.Debug("cannot count the slots in use", "err", err)
		}
		c.at = time.Now()
	}
	return c.used, c.total
}

func groupStatus(name string, policy upstream.Policy, st upstream.Stats) status.Group {
	if policy == "" {
		policy = upstream.Failover
	}
	g := status.Group{Name: name, Policy: string(policy), Servers: []status.Server{}}
	for _, s := range st.Servers {
		state := "up"
		switch {
		case s.Backoff > 0 || s.LastError != "":
			state = "down"
		case s.Suspect:
			state = "silent"
		}
		g.Servers = append(g.Servers, status.Server{
			Server: s.Server, State: state, Protocol: s.Protocol, CertExpiry: s.CertExpiry, Unauthenticated: s.Unauthenticated,
			Connections: s.Conns, InFlight: s.InFlight, Queries: s.Queries, Failed: s.Failed,
			Dials: s.Dials, DialErrors: s.DialErrors, Resumed: s.Resumed,
			UsualMillis: millis(s.EWMA), P95Millis: millis(s.P95), RetrySeconds: s.Backoff.Seconds(), LastError: s.LastError,
			Errors: s.Failures, RoundTrips: s.RoundTrips, Opened: s.Opened,
		})
	}
	return g
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func queryStatus(t observe.Totals) status.Queries {
	q := status.Queries{Total: t.Queries, TCP: t.TCP, Source: map[string]uint64{}, Rcode: map[string]uint64{}}
	for source, c := range t.BySource {
		if c.Queries == 0 {
			continue
		}
		q.Source[forwarder.Source(source).String()] = c.Queries
		for rcode, n := range c.Rcodes {
			if n > 0 {
				q.Rcode[observe.RcodeName(rcode)] += n
			}
		}
	}
	hits, replies := &t.BySource[forwarder.FromCache], &t.BySource[forwarder.FromUpstream]
	q.CacheP50Micros, q.CacheP99Micros = hits.Quantile(0.5).Microseconds(), hits.Quantile(0.99).Microseconds()
	q.UpstreamP50Micros, q.UpstreamP99Micros = replies.Quantile(0.5).Microseconds(), replies.Quantile(0.99).Microseconds()
	return q
}
