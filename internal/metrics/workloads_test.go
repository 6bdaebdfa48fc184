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
	before := map[string]uint64{}
	busiest := fmt.Sprintf("/w%d", 1_000_000)
	for round := range 300 {
		for range 400 {
			n := first + int(random.ExpFloat64()*60)
			hub.Observe(event(fmt.Sprintf("/w%d", n), forwarder.FromCache, 0))
			total++
		}
		if round > 200 { // one that comes late, and is busy
			for range 200 {
				hub.Observe(event(busiest, forwarder.FromSotto, 0))
				total++
			}
		}
		if round%10 == 9 {
			first += 20
			hub.Forget(func(name string) bool {
				n := 0
				fmt.Sscanf(name, "/w%d", &n)
				return n < first
			})
		}
		now, sum := map[string]uint64{}, uint64(0)
		for _, w := range s.report(hub.Workloads()) {
			if w.Queries < before[w.Name] {
				t.Fatalf("round %d: %s decreased from %d to %d", round, w.Name, before[w.Name], w.Queries)
			}
			now[w.Name], sum = w.Queries, sum+w.Queries
		}
		if sum+s.past.Queries != total {
			t.Fatalf("round %d: the sum is %d of %d", round, sum, total)
		}
		if len(now) > MaxWorkloads+1 {
			t.Fatalf("%d labels", len(now))
		}
		before = now
	}
	if before[busiest] < 90*200 || before[observe.Other] == 0 {
		t.Errorf("the busiest workload has %d queries, all others %d", before[busiest], before[observe.Other])
	}
}
