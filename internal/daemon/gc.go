// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"sotto/forwarder/cache"
)

// gcInterval is how often the garbage collector's target is adjusted. A cache grows over
// minutes.
const gcInterval = 5 * time.Second

// pauseGC switches the garbage collector off until resume is called. A start allocates about
// 17 MB, most of it for the BPF programs, and collecting that several times takes a fifth of the
// time. It does nothing if GOGC is set. A limit in GOMEMLIMIT stays in force.
func pauseGC() (resume func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	old := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(old) }
}

// tuneGC keeps the garbage collector's target percentage suitable for the size of the heap
// until ctx ends. It does nothing if GOGC is set.
func tuneGC(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	current := -1 // not set yet
	tick := time.NewTicker(gcInterval)
	defer tick.Stop()
	for {
		metrics.Read(live)
		if percent := cache.GCPercent(live[0].Value.Uint64()); percent != current {
			old := debug.SetGCPercent(percent)
			if current < 0 {
				defer debug.SetGCPercent(old)
			}
			current = percent
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
