// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"strings"
)

// Verdict is one thing that Sotto sets out to reach.
type Verdict struct {
	Goal   string
	Figure string // what was measured
	State  string // met, NOT MET or not measured
}

// Verdicts are all of them.
func (res Results) Verdicts() []Verdict {
	return []Verdict{
		res.least("unique misses at least 1.3 × unbound's", "unbound", 1.3, "miss_qps", "miss1k_qps"),
		res.least("unique misses at least 2 × CoreDNS's", "coredns", 2, "miss_qps", "miss1k_qps"),
		res.connections(4),
		res.least("hits at least unbound's", "unbound", 1, "hit_qps"),
		res.bestLatency(),
		res.halfTheCPU(),
		res.memory(),
		res.afterIdle(1.2),
	}
}

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

// least holds Sotto's advantage over one peer, in every metric named, against
// the least that it should be.
func (res Results) least(goal, peer string, want float64, keys ...string) Verdict {
	var parts []string
	ok := true
	for _, key := range keys {
		s := res.Ratio(peer, key)
		if s.N == 0 || s.Median == 0 {
			return Verdict{goal, "", notMeasured}
		}
		parts = append(parts, fmt.Sprintf("%s: %s ×", metricOf(key).Short, ratio(1/s.Median)))
		ok = ok && 1/s.Median >= want
	}
	return verdict(goal, strings.Join(parts, "; "), ok)
}

func (res Results) connections(limit float64) Verdict {
	goal := fmt.Sprintf("at most %.0f TLS connections with 1,000 queries outstanding", limit)
	s := res.Stat(Sotto, "conns")
	if s.N == 0 {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, fmt.Sprintf("%.0f at the most", s.Max), s.Max <= limit)
}

func (res Results) bestLatency() Verdict {
	goal := "p99 at 5,000 q/s no worse than the best peer's"
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
	return verdict(goal, fmt.Sprintf("%s µs; the best peer is %s with %s µs", whole(own.Median), name, whole(best)), own.Median <= best)
}

func (res Results) halfTheCPU() Verdict {
	goal := "CPU per million answers at most half of every peer's that is written in Go"
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
			least, figure = s.Median, fmt.Sprintf("the nearest is %s with %s × Sotto's (%s)", p.Name, ratio(s.Median), metricOf(key).Short)
		}
	}
	if figure == "" {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, figure, least >= 2)
}

func (res Results) memory() Verdict {
	goal := "memory per cached answer no more than unbound's"
	own, other := res.Stat(Sotto, "entry_bytes"), res.Stat("unbound", "entry_bytes")
	if own.N == 0 || other.N == 0 {
		return Verdict{goal, "", notMeasured}
	}
	return verdict(goal, fmt.Sprintf("%s bytes, unbound %s", whole(own.Median), whole(other.Median)), own.Median <= other.Median)
}

func (res Results) afterIdle(most float64) Verdict {
	goal := fmt.Sprintf("the first query after an idle close at most %.1f × one on an open connection", most)
	closed, kept := res.Stat(Sotto, "closed_us"), res.Stat(Sotto, "kept_us")
	if closed.N == 0 || kept.N == 0 || kept.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := closed.Median / kept.Median
	return verdict(goal, fmt.Sprintf("%s × (%s µs to %s µs)", ratio(r), whole(closed.Median), whole(kept.Median)), r <= most)
}
