// SPDX-License-Identifier: Apache-2.0

package shared

import "sync/atomic"

// counters count what happened to lookups and answers.
type counters struct {
	found, misses, timeouts, errors, skipped, busy, invalid atomic.Uint64
	written, dropped                                        atomic.Uint64
}

// Stats has counters, which only increase, and the state of the store.
type Stats struct {
	Found    uint64 // lookups that found an answer, which may have expired
	Misses   uint64 // lookups that found none
	Timeouts uint64 // lookups that the store did not answer in time
	Errors   uint64 // lookups that failed
	Skipped  uint64 // lookups that were not made because the store had failed
	Busy     uint64 // lookups that were not made because too many waited
	Invalid  uint64 // values that were not used: damaged, forged, or of another version
	Written  uint64 // answers stored
	Dropped  uint64 // answers that were not: the store had failed, or too many waited

	Up  bool  // the store works
	Err error // latest failure, if it does not
}

// Stats returns the current figures.
func (c *Cache) Stats() Stats {
	n := &c.count
	return Stats{
		Found: n.found.Load(), Misses: n.misses.Load(), Timeouts: n.timeouts.Load(), Errors: n.errors.Load(),
		Skipped: n.skipped.Load(), Busy: n.busy.Load(), Invalid: n.invalid.Load(),
		Written: n.written.Load(), Dropped: n.dropped.Load(),
		Up: c.breaker.closed.Load(), Err: c.breaker.err(),
	}
}
