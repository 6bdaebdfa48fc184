// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"strings"
)

// Verdict is the result for one performance goal of Sotto.
type Verdict struct {
	Goal   string
	Figure string // the measured values
	State  string // met, not met (in bold) or not measured
}

// Verdicts returns the results for all goals.
func (res Results) Verdicts() []Verdict {
	return append([]Verdict{
		res.atLeast("misses/s at least 1.3 × unbound", "unbound", 1.3, "miss_qps", "miss1k_qps"),
		res.atLeast("misses/s at least 2 × CoreDNS", "coredns", 2, "miss_qps", "miss1k_qps"),
		res.atLeast("misses/s at least 0.8 × dnsperf that asks the upstream over TLS itself", direct, 0.8, "miss_qps"),
		res.maxConnections(4),
		res.atLeast("hits/s at least as many as unbound", "unbound", 1, "hit_qps"),
		res.lowestLatency(),
		res.halfTheCPU(),
		res.memory(),
		res.afterIdle(1.2),
		res.validation(0.7),
		res.flood(1.2),
	}, res.pathVerdicts()...)
}

// direct is the name of the load generator where it asks the upstream itself.
const direct = "direct"

const (
	met         = "met"
	notMet      = "**not met**"
	notMeasured = "not measured"
)

func verdict(goal, figure string, ok bool) Verdict {
	if ok {
		return Verdict{goal, figure, met}
	}
	return Verdict{goal, figure, notMet}
}

// atLeast checks that Sotto's value is at least factor times the peer's in every metric.
func (res Results) atLeast(goal, peer string, factor float64, keys ...string) Verdict {
	var parts []string
	ok := true
	for _, key := range keys {
		s := res.Ratio(peer, key)
		if s.N == 0 || s.Median == 0 {
			return Verdict{goal, "", notMeasured}
		}
		parts = append(parts, fmt.Sprintf("%s: %s ×", metricOf(key).Short, ratio(1/s.Median)))
		ok = ok && 1/s.Median >= factor
	}
	return verdict(goal, strings.Join(parts, "; "), ok)
}

func (res Results) maxConnections(limit float64) Verdict {
	goal := fmt.Sprintf("at most %.0f TLS connections with 1,000 outstanding queries", limit)
	s := res.Stat(Sotto, "conns")
	if s.N == 0 {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, fmt.Sprintf("at most %.0f", s.Max), s.Max <= limit)
}

func (res Results) lowestLatency() Verdict {
	goal := "p99 latency at 5,000 queries/s no higher than any other forwarder"
	own := res.Stat(Sotto, "p99_us")
	best, name := 0.0, ""
	for _, p := range res.Peers {
		if s := res.Stat(p.Name, "p99_us"); p.Name != Sotto && s.N > 0 && (name == "" || s.Median < best) {
			best, name = s.Median, p.Name
		}
	}
	if own.N == 0 || name == "" {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, fmt.Sprintf("%s µs; lowest of the others: %s, %s µs", whole(own.Median), name, whole(best)), own.Median <= best)
}

func (res Results) halfTheCPU() Verdict {
	goal := "CPU time per answer at most half of every other forwarder written in Go"
	least, figure := 0.0, ""
	for _, p := range res.Peers {
		if !p.Go || p.Name == Sotto {
			continue
		}
		for _, key := range []string{"miss_cpu", "hit_cpu"} {
			s := res.Ratio(p.Name, key)
			if s.N == 0 || (figure != "" && s.Median >= least) {
				continue
			}
			least, figure = s.Median, fmt.Sprintf("closest: %s, %s × Sotto (%s)", p.Name, ratio(s.Median), metricOf(key).Short)
		}
	}
	if figure == "" {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, figure, least >= 2)
}

func (res Results) memory() Verdict {
	goal := "memory per cached answer no higher than unbound"
	own, other := res.Stat(Sotto, "entry_bytes"), res.Stat("unbound", "entry_bytes")
	if own.N == 0 || other.N == 0 {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, fmt.Sprintf("%s bytes, unbound %s", whole(own.Median), whole(other.Median)), own.Median <= other.Median)
}

func (res Results) afterIdle(limit float64) Verdict {
	goal := fmt.Sprintf("latency of the first query after an idle close at most %.1f × that on an open connection", limit)
	closed, kept := res.Stat(Sotto, "closed_us"), res.Stat(Sotto, "kept_us")
	if closed.N == 0 || kept.N == 0 || kept.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := closed.Median / kept.Median
	return verdict(goal, fmt.Sprintf("%s × (%s µs, open: %s µs)", ratio(r), whole(closed.Median), whole(kept.Median)), r <= limit)
}
