// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sync"
	"sync/atomic"
	"testing"
)

type jobFunc func()

func (f jobFunc) run() { f() }

// TestCrew: every job runs, goroutines are used again, and close leaves none.
func TestCrew(t *testing.T) {
	c := newCrew()
	var ran atomic.Int64
	const rounds, jobs = 20, 3 * maxIdle / 2
	for range rounds {
		var wg sync.WaitGroup
		wg.Add(jobs)
		release := make(chan struct{})
		for range jobs {
			if !c.run(jobFunc(func() { <-release; ran.Add(1); wg.Done() })) {
				t.Fatal("a job was refused")
			}
		}
		close(release)
		wg.Wait()
		if n := c.idle.Load(); n > maxIdle+1 {
			t.Fatalf("%d goroutines are idle, want at most %d", n, maxIdle)
		}
	}
	c.close()
	if n := ran.Load(); n != rounds*jobs {
		t.Errorf("%d jobs ran, want %d", n, rounds*jobs)
	}
	if c.size != 0 || c.idle.Load() != 0 {
		t.Errorf("%d goroutines are left, %d of them idle", c.size, c.idle.Load())
	}
	if c.run(jobFunc(func() {})) {
		t.Error("a closed crew took a job")
	}
}

// TestCrewDismisses: who is idle can be sent away.
func TestCrewDismisses(t *testing.T) {
	c := newCrew()
	defer c.close()
	var wg sync.WaitGroup
	for range 100 {
		wg.Add(1)
		c.run(jobFunc(wg.Done))
	}
	wg.Wait()
	waitFor(t, "all goroutines but retire's to go", func() bool {
		c.dismiss(c.idle.Load())
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.size == 1
	})
}
