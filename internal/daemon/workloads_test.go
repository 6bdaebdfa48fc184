// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"sotto/forwarder"
	"sotto/internal/observe"
)

// TestForgetRemoved: workloads that exist for a moment do not keep their places, so that later ones
// are counted separately, and those that exist keep their counters.
func TestForgetRemoved(t *testing.T) {
	root := t.TempDir()
	cgroup := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cgroup("/lasting")
	synctest.Test(t, func(t *testing.T) {
		var arrived int
		hub := &observe.Hub{Arrived: func(string) { arrived++ }}
		ask := func(workload string) {
			hub.Observe(forwarder.Event{Origin: forwarder.Origin{Workload: workload}, Name: []byte{0}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); forgetRemoved(ctx, hub, root) }()
		ask("")
		ask("/lasting")
		const many = 3 * observe.MaxWorkloads
		for n := range many {
			workload := fmt.Sprintf("/app.slice/w%d", n)
			cgroup(workload)
			ask(workload)
			if err := os.Remove(filepath.Join(root, workload)); err != nil {
				t.Fatal(err)
			}
			if hub.Crowded() {
				time.Sleep(crowdedInterval)
				synctest.Wait()
			}
		}
		cgroup("/last")
		ask("/last")
		if arrived != many+2 { // "" is none
			t.Errorf("%d workloads arrived, want %d", arrived, many+2)
		}
		time.Sleep(forgetInterval + crowdedInterval)
		synctest.Wait()
		counts := map[string]uint64{}
		for _, w := range hub.Workloads() {
			counts[w.Name] = w.Queries
		}
		if want := map[string]uint64{"": 1, "/lasting": 1, "/last": 1, observe.Other: many}; fmt.Sprint(counts) != fmt.Sprint(want) {
			t.Errorf("counted %v, want %v", counts, want)
		}
		cancel()
		<-done
	})
}
