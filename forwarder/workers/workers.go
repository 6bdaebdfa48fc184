// SPDX-License-Identifier: Apache-2.0

// Package workers runs jobs in reused goroutines. A cache miss needs some kilobytes
// of stack, and growing a new goroutine's stack to that size costs more than the
// rest of the miss. Its only caller is [sotto/forwarder].
package workers

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxIdle limits the idle goroutines. A typical miss takes milliseconds, so
	// this many serve a hundred thousand misses per second.
	maxIdle = 1024

	// retireInterval is how often half of the idle goroutines exit.
	retireInterval = 2 * time.Second
)

// Job is one unit of work.
type Job interface{ Run() }

// Pool runs jobs. The number of running jobs is not limited, only that of idle
// goroutines. It is safe for concurrent use. The caller calls [Pool.Close].
type Pool struct {
	jobs   chan Job // unbuffered: received by an idle goroutine or not at all; nil stops one
	idle   atomic.Int64
	stop   chan struct{} // stops retire
	exited chan struct{} // gets a value when a goroutine exits

	mu     sync.Mutex
	size   int // goroutines, retire included
	closed bool
}

// New returns a pool without idle goroutines.
func New() *Pool {
	p := &Pool{jobs: make(chan Job), stop: make(chan struct{}), exited: make(chan struct{}, 1), size: 1}
	go p.retire()
	return p
}

// Run starts j immediately, in a goroutine of the pool. It reports false if the
// pool is closed.
func (p *Pool) Run(j Job) bool {
	select {
	case p.jobs <- j:
		return true
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.size++
	go p.work(j)
	return true
}

// Size returns the number of goroutines, idle ones included.
func (p *Pool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// work runs j and later jobs. It returns when it receives nil, or after a job if
// enough other goroutines are idle.
func (p *Pool) work(j Job) {
	defer p.exit()
	for j != nil {
		j.Run()
		if p.idle.Add(1) > maxIdle {
			p.idle.Add(-1)
			return
		}
		j = <-p.jobs
		p.idle.Add(-1)
	}
}

// exit removes the calling goroutine from the count.
func (p *Pool) exit() {
	p.mu.Lock()
	p.size--
	p.mu.Unlock()
	select {
	case p.exited <- struct{}{}:
	default:
	}
}

// retire stops goroutines that have not been needed recently.
func (p *Pool) retire() {
	defer p.exit()
	t := time.NewTicker(retireInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.stopIdle((p.idle.Load() + 1) / 2)
		case <-p.stop:
			return
		}
	}
}

// stopIdle stops up to n idle goroutines.
func (p *Pool) stopIdle(n int64) {
	for range n {
		select {
		case p.jobs <- nil:
		default:
			return
		}
	}
}

// Close waits for the running jobs and stops every goroutine. It must be called
// only once.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	close(p.stop)
	for p.Size() > 0 {
		select {
		case p.jobs <- nil:
		case <-p.exited:
		}
	}
}
