// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"sync/atomic"
	"unsafe"
)

// stripes is the number of copies of each counter, so that cores that answer at the same
// time seldom write to the same cache line.
const stripes = 16

// counters counts the results of lookups.
type counters struct {
	stripe [stripes]stripe
}

// stripe fills a cache line.
type stripe struct {
	found      [Stale + 1]atomic.Uint64 // by State
	prefetches atomic.Uint64
	_          [32]byte
}

// of returns the stripe for the caller with the answer a. Answers are usually on their
// goroutine's stack, so their address distinguishes goroutines at no cost. The sums are
// right for any choice.
func (c *counters) of(a *Answer) *stripe {
	// Stacks start at multiples of 2 KB or more. The odd factor (the golden ratio)
	// distributes them over the upper bits.
	stack := uint64(uintptr(unsafe.Pointer(a))) >> 11
	return &c.stripe[stack*0x9E3779B97F4A7C15>>60]
}

// addTo adds the sums to s.
func (c *counters) addTo(s *Stats) {
	for i := range c.stripe {
		st := &c.stripe[i]
		s.Hits += st.found[Fresh].Load()
		s.Stale += st.found[Stale].Load()
		s.Misses += st.found[Miss].Load()
		s.Prefetches += st.prefetches.Load()
	}
}
