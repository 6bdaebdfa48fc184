// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"
	"sync"
	"unicode/utf8"

	"sotto/internal/observe"
)

const (
	// MaxWorkloads is the number of workloads that have metrics of their own.
	MaxWorkloads = 100

	// unknown is the label of queries whose workload is not known.
	unknown = "unknown"
)

// selection chooses the workloads that have metrics of their own. Counters must never decrease,
// so a workload keeps its own, and only what it is counted after it was chosen; everything else
// belongs to "other". The sums over all labels are those of all queries.
type selection struct {
	mu     sync.Mutex
	chosen map[string]*chosen
	past   observe.WorkloadCounts // what was reported for workloads that are not chosen any more
	other  observe.WorkloadCounts // as last reported
	full   bool                   // at the last call there were more workloads than places
}

// chosen is a workload with metrics of its own.
type chosen struct {
	base     observe.WorkloadCounts // counted as "other", before it was chosen
	reported observe.WorkloadCounts
}

// report returns what to report. current returns the counts of all workloads, those with the most
// queries first. It is called under the lock: counts that are older than those of an earlier call
// look as if the workloads were counted from zero again.
func (s *selection) report(current func() []observe.WorkloadCounts) []observe.WorkloadCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := current()
	if s.chosen == nil {
		s.chosen = map[string]*chosen{}
	}
	var total observe.WorkloadCounts
	present := make(map[string]observe.WorkloadCounts, len(all))
	for _, w := range all {
		total = plus(total, w, 1)
		if w.Name != observe.Other {
			present[w.Name] = w
		}
	}
	s.drop(present)
	s.choose(all, len(present))
	out := make([]observe.WorkloadCounts, 0, len(s.chosen)+1)
	rest := plus(total, s.past, -1)
	for _, w := range all {
		if c := s.chosen[w.Name]; c != nil {
			c.reported = plus(w, c.base, -1)
			rest = plus(rest, c.reported, -1)
			out = append(out, named(w.Name, c.reported))
		}
	}
	// A query that is counted while its workload is forgotten may be lost, see observe.Hub.Forget.
	s.other = most(rest, s.other)
	if s.other.Queries > 0 {
		out = append(out, named(observe.Other, s.other))
	}
	return out
}

// drop removes chosen workloads that do not exist any more, or are counted from zero again.
func (s *selection) drop(present map[string]observe.WorkloadCounts) {
	for name, c := range s.chosen {
		if w, ok := present[name]; !ok || w.Queries < c.base.Queries+c.reported.Queries {
			s.past = plus(s.past, c.reported, 1)
			delete(s.chosen, name)
		}
	}
}

// choose fills the free places with the busiest workloads, and replaces a workload by one that
// has twice as many queries.
func (s *selection) choose(all []observe.WorkloadCounts, present int) {
	last := len(all) - 1 // the chosen workloads from here on are busier
	for _, w := range all {
		if w.Name == observe.Other || s.chosen[w.Name] != nil {
			continue
		}
		if len(s.chosen) == MaxWorkloads {
			for last >= 0 && s.chosen[all[last].Name] == nil {
				last--
			}
			if last < 0 || all[last].Queries*2 >= w.Queries {
				break
			}
			idle := all[last].Name
			s.past = plus(s.past, s.chosen[idle].reported, 1)
			delete(s.chosen, idle)
		}
		c := &chosen{}
		if s.full {
			c.base = w // it was counted as "other"
		}
		s.chosen[w.Name] = c
	}
	s.full = present > MaxWorkloads
}

// plus returns a + sign × b, without a name.
func plus(a, b observe.WorkloadCounts, sign int) observe.WorkloadCounts {
	n := uint64(sign)
	return observe.WorkloadCounts{
		Queries: a.Queries + n*b.Queries, Failed: a.Failed + n*b.Failed, Cached: a.Cached + n*b.Cached,
		Seconds: a.Seconds + float64(sign)*b.Seconds,
	}
}

// most returns the larger one of each count. A count below zero, which wraps, is not larger.
func most(a, b observe.WorkloadCounts) observe.WorkloadCounts {
	larger := func(a, b uint64) uint64 {
		if int64(a-b) > 0 {
			return a
		}
		return b
	}
	return observe.WorkloadCounts{
		Queries: larger(a.Queries, b.Queries), Failed: larger(a.Failed, b.Failed), Cached: larger(a.Cached, b.Cached),
		Seconds: max(a.Seconds, b.Seconds),
	}
}

func named(name string, c observe.WorkloadCounts) observe.WorkloadCounts {
	c.Name = name
	return c
}

// label returns the name of a workload as the value of a label, which has to be UTF-8. Names of
// cgroups are arbitrary bytes, but start with a slash.
func label(workload string) string {
	switch {
	case workload == "":
		return unknown
	case !utf8.ValidString(workload):
		return strconv.Quote(workload)
	}
	return workload
}
