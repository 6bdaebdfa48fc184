// SPDX-License-Identifier: Apache-2.0

// Package ratelog limits how often a warning is logged that others can cause, so
// that a flood does not fill the log.
package ratelog

import (
	"sync/atomic"
	"time"
)

// Interval is the shortest time between two warnings of one [Limiter].
const Interval = time.Minute

// Limiter allows one warning per [Interval]. The zero value allows the first one
// at once. It is safe for concurrent use.
type Limiter struct{ last atomic.Int64 } // Unix nanoseconds; 0: none yet

// Allow reports whether a warning may be logged at now. If several goroutines
// ask at the same time, one of them gets true. After the clock was set back by more
// than an interval, the next one is allowed.
func (l *Limiter) Allow(now time.Time) bool {
	n, last := now.UnixNano(), l.last.Load()
	if last != 0 && n-last < int64(Interval) && last-n < int64(Interval) {
		return false
	}
	return l.last.CompareAndSwap(last, n)
}
