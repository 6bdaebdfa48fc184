// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"sync/atomic"
	"unsafe"
)

// stripes is how many copies of each counter there are, so that cores that
// answer at the same time seldom write to the same cache line.
const stripes = 16

// counters count what look-ups found.
type counters struct {
	stripe [stripes]stripe
}

// stripe fills a cache line.
type stripe struct {
	found      [Stale + 1]atomic.Uint64 // by State
	prefetches atomic.Uint64
	_          [32]byte
}

// of returns the stripe for the caller whose answer a is. Answers lie on their
// goroutine's stack, as a rule, so that this tells goroutines apart for nothing.
// Whatever it returns, the sums are right.
func (c *counters) of(a *Answer) *stripe {
	// Stacks begin at multiples of 2 KB or more; the odd factor (the golden
	// ratio) spreads them over the upper bits.
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
