// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"maps"
	"os"
	"slices"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/upstream"
	"sotto/forwarder/wire"
	"sotto/intercept"
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
		Rules: len(p.Rules.Uses), Groups: []status.Group{}, Messages: d.recent.Messages(),
	}
	if d.handover != nil {
		s.Seal = d.sealStatus(d.handover.seal.inst)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		g := p.Groups[name]
		s.Groups = append(s.Groups, groupStatus(name, g.Config.Policy, d.resolver.groups.stats(g.Key)))
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
	s.Queries = queryStatus(d.hub.Totals())
	workloads := d.hub.Workloads()
	s.Workloads = workloads[:min(len(workloads), maxWorkloads)]
	for i := range s.Workloads {
		s.Workloads[i].WorkloadName = d.workloadName(s.Workloads[i].Name)
	}
	return s
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
	var err error
	if s.SlotsUsed, s.SlotsTotal, err = inst.Slots(); err != nil {
		d.log.Debug("cannot count the slots in use", "err", err)
	}
	return s
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
				q.Rcode[rcodeName(rcode, len(c.Rcodes))] += n
			}
		}
	}
	hits, replies := &t.BySource[forwarder.FromCache], &t.BySource[forwarder.FromUpstream]
	q.CacheP50Micros, q.CacheP99Micros = hits.Quantile(0.5).Microseconds(), hits.Quantile(0.99).Microseconds()
	q.UpstreamP50Micros, q.UpstreamP99Micros = replies.Quantile(0.5).Microseconds(), replies.Quantile(0.99).Microseconds()
	return q
}

// rcodeName names element n of the counts by rcode, the last of which has all higher ones.
func rcodeName(n, all int) string {
	if n == all-1 {
		return observe.Other
	}
	return wire.RcodeName(uint16(n))
}
