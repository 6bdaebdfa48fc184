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
	"sotto/forwarder/shared"
	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/order"
	"sotto/intercept"
	"sotto/internal/config"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// maxWorkloads is how many workloads the status lists.
const maxWorkloads = 100

// ready reports whether queries are answered and, if there is a seal, redirected. A process that
// was stopped is not ready, so that no more clients are sent to it.
func (d *daemon) ready() bool {
	return !d.draining.Load() && (d.handover == nil || d.handover.seal.inst.Info().Attached)
}

// status describes the process as it is now.
func (d *daemon) status() status.Status {
	p := d.current()
	s := status.Status{
		Version: d.Version, Started: d.started, PID: os.Getpid(), Ready: d.ready(), Stopping: d.draining.Load(),
		Rules: len(p.Rules.Uses), Groups: d.groupStatuses(p), Messages: d.recent.Messages(),
	}
	if d.handover != nil {
		d.handover.seal.inst.CountHits() // so that the counts below include them
		s.Seal = d.sealStatus(d.handover.seal.inst)
	}
	if c := d.resolver.cache; c != nil {
		st := c.Stats()
		s.Cache = &status.Cache{
			Entries: st.Entries, Bytes: st.Bytes, MaxBytes: p.Cache.MaxBytes, Hits: st.Hits, Stale: st.Stale,
			Misses: st.Misses, Prefetches: st.Prefetches, Evictions: st.Evictions,
		}
	}
	if c := d.resolver.shared; c != nil {
		s.SharedCache = sharedStatus(p.Shared.Address, c.Stats())
	}
	load := d.resolver.Stats()
	s.Load = status.Load{Misses: load.Misses, Waiting: load.Waiting, TCP: load.Conns, Overloaded: load.Overloaded, OverShare: load.OverShare}
	s.Outputs = d.outputs.status()
	s.Queries = queryStatus(d.hub.Totals(), d.hub.Unanswered())
	workloads := d.hub.Workloads()
	s.Workloads = workloads[:min(len(workloads), maxWorkloads)]
	for i := range s.Workloads {
		s.Workloads[i].WorkloadName = d.hub.WorkloadName(s.Workloads[i].Name)
	}
	return s
}

func sharedStatus(address string, st shared.Stats) *status.SharedCache {
	s := &status.SharedCache{
		Address: address, State: "up", Found: st.Found, Misses: st.Misses, Timeouts: st.Timeouts, Errors: st.Errors,
		Skipped: st.Skipped, Busy: st.Busy, Invalid: st.Invalid, Written: st.Written, Dropped: st.Dropped,
	}
	if !st.Up {
		s.State = "down"
	}
	if st.Err != nil {
		s.LastError = st.Err.Error()
	}
	return s
}

func (d *daemon) groupStatuses(p config.Plan) []status.Group {
	out := []status.Group{}
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		g := p.Groups[name]
		st := groupStatus(name, policyName(g), d.resolver.groups.stats(g.Key))
		st.Nameservers = d.resolver.groups.nameservers(g.Key)
		st.DNSSEC = validationStatus(d.resolver.groups.validation(g.Key))
		out = append(out, st)
	}
	return out
}

func (d *daemon) sealStatus(inst *intercept.Instance) *status.Seal {
	info := inst.Info()
	s := &status.Seal{
		Cgroups: info.Cgroups, Missing: info.Missing, Exclude: info.Exclude, Prefix4: info.Prefix4, Prefix6: info.Prefix6,
		Guard: info.Guard.String(), LocalResolvers: info.LocalResolvers.String(), Counters: inst.Counters(),
	}
	if s.Exclude == nil {
		s.Exclude = []string{}
	}
	s.SlotsUsed, s.SlotsTotal = d.slots.count(inst, d.log)
	s.KernelAnswers = d.kernelAnswers(inst)
	return s
}

// kernelAnswers describes the answers in the kernel.
func (d *daemon) kernelAnswers(inst *intercept.Instance) status.KernelAnswers {
	out := status.KernelAnswers{State: "off", Reason: d.handover.seal.withoutHits, Verdicts: map[string]uint64{}}
	t, reason := inst.Hits()
	if t == nil {
		if out.Reason == "" {
			out.Reason = reason
		}
		return out
	}
	st, err := t.Stats()
	if err != nil {
		d.log.Debug("cannot read what the kernel answers", "err", err)
	}
	return status.KernelAnswers{
		State: "on", Entries: st.Entries, MaxEntries: st.MaxEntries, Bytes: st.Bytes, Evictions: st.Evicted, Verdicts: st.Verdicts,
	}
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

// policyName returns how a group selects servers: its policy, or the value of split.
func policyName(g config.Group) string {
	switch {
	case g.Original != nil:
		return config.UpstreamOriginal
	case g.Config.Split != nil && g.Config.Split.Strict:
		return config.SplitStrict
	case g.Config.Split != nil:
		return config.SplitByName
	case g.Config.Policy == "":
		return string(order.Failover)
	}
	return string(g.Config.Policy)
}

func groupStatus(name, policy string, st upstream.Stats) status.Group {
	g := status.Group{Name: name, Policy: policy, Servers: []status.Server{}}
	for _, s := range st.Servers {
		state := "up"
		switch {
		case s.Backoff > 0 || s.LastError != "":
			state = "down"
		case s.Suspect:
			state = "silent"
		}
		g.Servers = append(g.Servers, status.Server{
			Server: s.Server, State: state, Protocol: s.Protocol, Addresses: s.Addresses, Using: s.Using, KeyExchange: s.KeyExchange, CertExpiry: s.CertExpiry, Unauthenticated: s.Unauthenticated,
			Connections: s.Conns, InFlight: s.InFlight, Queries: s.Queries, Failed: s.Failed,
			Dials: s.Dials, DialErrors: s.DialErrors, Resumed: s.Resumed,
			UsualMillis: millis(s.EWMA), P95Millis: millis(s.P95), RetrySeconds: s.Backoff.Seconds(), LastError: s.LastError,
			Errors: s.Failures, RoundTrips: s.RoundTrips, Opened: s.Opened,
		})
	}
	return g
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func queryStatus(t observe.Totals, unanswered map[string]uint64) status.Queries {
	q := status.Queries{Total: t.Queries, TCP: t.TCP, Unanswered: unanswered, Source: map[string]uint64{}, Rcode: map[string]uint64{}}
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
