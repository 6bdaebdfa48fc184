// SPDX-License-Identifier: Apache-2.0

package cache

// GCPercent returns the argument of [debug.SetGCPercent] for a process whose heap is mostly
// a cache, with live bytes in use. The garbage collector then runs when the heap has grown
//
//   - by at least 32 MB, so that a small heap is not collected too often,
//   - by 100 % (Go's default) for a heap up to 85 MB,
//   - by 64 MB and 25 % above that. Doubling a large cache would use much memory for
//     little gain: the cost of a collection depends on the number of entries, not on
//     their size, since they have no pointers.
//
// It should be set again when the size of the heap changes.
func GCPercent(live uint64) int {
	const mb = 1 << 20
	live = max(live, 1)
	slack := max(32*mb, min(live, 64*mb+live/4))
	return int(min(100*slack/live, 800))
}
