// SPDX-License-Identifier: Apache-2.0

package workers

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type jobFunc func()

func (f jobFunc) Run() { f() }

// TestPool: every job runs, goroutines are reused, and Close leaves none.
func TestPool(t *testing.T) {
	p := New()
	var ran atomic.Int64
	const rounds, jobs = 20, 3 * maxIdle / 2
	for range rounds {
		var wg sync.WaitGroup
		wg.Add(jobs)
		release := make(chan struct{})
		for range jobs {
			if !p.Run(jobFunc(func() { <-release; ran.Add(1); wg.Done() })) {
				t.Fatal("a job was refused")
			}
		}
		close(release)
		wg.Wait()
		if n := p.idle.Load(); n > maxIdle+1 {
			t.Fatalf("%d goroutines are idle, want at most %d", n, maxIdle)
		}
	}
	p.Close()
	if n := ran.Load(); n != rounds*jobs {
		t.Errorf("%d jobs ran, want %d", n, rounds*jobs)
	}
	if p.size != 0 || p.idle.Load() != 0 {
		t.Errorf("%d goroutines are left, %d of them idle", p.size, p.idle.Load())
	}
	if p.Run(jobFunc(func() {})) {
		t.Error("a closed pool accepted a job")
	}
}

// TestStopIdle: idle goroutines can be stopped.
func TestStopIdle(t *testing.T) {
	p := New()
	defer p.Close()
	var wg sync.WaitGroup
	for range 100 {
		wg.Add(1)
		p.Run(jobFunc(wg.Done))
	}
	wg.Wait()
	for end := time.Now().Add(10 * time.Second); p.Size() > 1; time.Sleep(2 * time.Millisecond) {
		p.stopIdle(p.idle.Load())
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left, want only that of retire", p.Size())
		}
	}
}
