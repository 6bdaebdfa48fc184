// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sotto/forwarder"
	"sotto/internal/observe"
)

// TestSelection counts queries of workloads that are added and removed at random: the number of
// labels is bounded, no counter decreases while its label exists, and the sum is that of all
// queries.
func TestSelection(t *testing.T) {
	var hub observe.Hub
	var s selection
	random := rand.New(rand.NewPCG(1, 2))
	total, first := uint64(0), 0
	last := uint64(0) // total at the report before
	before := map[string]uint64{}
	busiest := fmt.Sprintf("/w%d", 1_000_000)
	for round := range 300 {
		for range 400 {
			n := first + int(random.ExpFloat64()*60)
			hub.Observe(event(fmt.Sprintf("/w%d", n), forwarder.FromCache, 0))
			total++
		}
		if round > 200 { // one that comes late, and is busy; none is removed any more
			for range 200 {
				hub.Observe(event(busiest, forwarder.FromSotto, 0))
				total++
			}
		}
		if round%10 == 9 && round < 200 {
			first += 20
			hub.Forget(func(name string) bool {
				n := 0
				fmt.Sscanf(name, "/w%d", &n)
				return n < first
			})
		}
		now, sum := map[string]uint64{}, uint64(0)
		for _, w := range s.report(hub.Workloads) {
			if w.Queries < before[w.Name] {
				t.Fatalf("round %d: %s decreased from %d to %d", round, w.Name, before[w.Name], w.Queries)
			}
			if more := w.Queries - before[w.Name]; more > total-last {
				t.Fatalf("round %d: %s increased by %d, after %d queries", round, w.Name, more, total-last)
			}
			now[w.Name], sum = w.Queries, sum+w.Queries
		}
		if sum+s.past.Queries != total {
			t.Fatalf("round %d: the sum is %d of %d", round, sum, total)
		}
		if len(now) > MaxWorkloads+1 {
			t.Fatalf("%d labels", len(now))
		}
		before, last = now, total
	}
	if before[busiest] < 90*200 || before[observe.Other] == 0 {
		t.Errorf("the busiest workload has %d queries, all others %d", before[busiest], before[observe.Other])
	}
}

// TestReplaced: what was reported for a workload that lost its place is not reported again.
func TestReplaced(t *testing.T) {
	var s selection
	var all []observe.WorkloadCounts
	for n := range MaxWorkloads {
		all = append(all, observe.WorkloadCounts{Name: fmt.Sprintf("/w%d", n), Queries: 1000})
	}
	current := func() []observe.WorkloadCounts { return all }
	s.report(current)
	all = append([]observe.WorkloadCounts{{Name: "/busy", Queries: 3000}}, all...)
	all[MaxWorkloads].Queries += 7
	got := s.report(current)
	if len(got) != MaxWorkloads+1 || got[0] != all[0] || got[MaxWorkloads] != (observe.WorkloadCounts{Name: observe.Other, Queries: 7}) {
		t.Errorf("%v", got)
	}
}

// TestOverlapping: no scrape reports newer counts between the moment when another one reads its
// counts and the moment when it reports them. It would report the workload as counted from zero
// again, and "other" would not change until the sums agree.
func TestOverlapping(t *testing.T) {
	var hub observe.Hub
	var s selection
	count := func(workload string) {
		for range 10 {
			hub.Observe(event(workload, forwarder.FromCache, 0))
		}
	}
	for n := range MaxWorkloads {
		count(fmt.Sprintf("/w%d", n))
	}
	s.report(func() []observe.WorkloadCounts {
		all := hub.Workloads()
		count("/w0")
		if s.mu.TryLock() {
			s.mu.Unlock()
			s.report(hub.Workloads)
		}
		return all
	})
	count("/last")
	got := map[string]uint64{}
	for _, w := range s.report(hub.Workloads) {
		got[w.Name] = w.Queries
	}
	if len(got) != MaxWorkloads+1 || got["/w0"] != 20 || got[observe.Other] != 10 {
		t.Errorf("%d labels, /w0 has %d queries, all others %d", len(got), got["/w0"], got[observe.Other])
	}
}
