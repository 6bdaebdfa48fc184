// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxIdle is how many goroutines without work are kept; a usual miss takes
	// milliseconds, so that so many serve a hundred thousand misses a second.
	maxIdle = 1024

	// retireEvery is how often half of those that found no work are let go.
	retireEvery = 2 * time.Second
)

// job is what a [crew] runs.
type job interface{ run() }

// crew runs jobs in goroutines that it keeps: a miss needs some kilobytes of stack,
// and growing a new one to that costs more than the rest of the miss.
type crew struct {
	jobs chan job // unbuffered: taken by an idle goroutine or by none; nil ends one
	idle atomic.Int64
	stop chan struct{} // ends retire
	gone chan struct{} // gets a value when a goroutine ended

	mu     sync.Mutex
	size   int // goroutines, retire included
	closed bool
}

func newCrew() *crew {
	c := &crew{jobs: make(chan job), stop: make(chan struct{}), gone: make(chan struct{}, 1), size: 1}
	go c.retire()
	return c
}

// run has j run, at once. Not true: the crew is closed.
func (c *crew) run(j job) bool {
	select {
	case c.jobs <- j:
		return true
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.size++
	go c.work(j)
	return true
}

// work runs jobs until there is none and enough others are idle, or it is told to
// go.
func (c *crew) work(j job) {
	defer c.leave()
	for j != nil {
		j.run()
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		j = <-c.jobs
		c.idle.Add(-1)
	}
}

// leave takes the calling goroutine off the crew.
func (c *crew) leave() {
	c.mu.Lock()
	c.size--
	c.mu.Unlock()
	select {
	case c.gone <- struct{}{}:
	default:
	}
}

// retire lets goroutines go that were not needed of late.
func (c *crew) retire() {
	defer c.leave()
	t := time.NewTicker(retireEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.dismiss((c.idle.Load() + 1) / 2)
		case <-c.stop:
			return
		}
	}
}

// dismiss lets n idle goroutines go, if there are as many.
func (c *crew) dismiss(n int64) {
	for range n {
		select {
		case c.jobs <- nil:
		default:
			return
		}
	}
}

// close waits for the jobs that run, and ends every goroutine. It is called once.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	for {
		c.mu.Lock()
		size := c.size
		c.mu.Unlock()
		if size == 0 {
			return
		}
		select {
		case c.jobs <- nil:
		case <-c.gone:
		}
	}
}
