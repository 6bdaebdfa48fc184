// SPDX-License-Identifier: Apache-2.0

package cache

// GCPercent is what a process that mostly holds a cache should give to
// [debug.SetGCPercent] while live bytes of heap are in use: the garbage
// collector then runs when the heap has grown by
//
//   - 32 MB at the least, so that a small heap is not collected all the time,
//   - as much again (Go's default) up to 85 MB,
//   - 64 MB and a quarter of it from there on. Twice a large cache would be a
//     high price for nothing: what a collection costs grows with the number of
//     entries, not with their bytes, which hold no pointers.
//
// It is to be set anew as the heap grows and shrinks.
func GCPercent(live uint64) int {
	const mb = 1 << 20
	live = max(live, 1)
	slack := max(32*mb, min(live, 64*mb+live/4))
	return int(min(100*slack/live, 800))
}
