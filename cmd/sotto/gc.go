// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"sotto/forwarder/cache"
)

// tuneEvery is how often the collector's pace is looked at: a cache grows for
// minutes.
const tuneEvery = 5 * time.Second

// tuneCollector keeps the garbage collector at the pace that suits a cache of the
// size that there is, until ctx ends. Who set GOGC has chosen already.
func tuneCollector(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := -1 // as it is
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	for {
		metrics.Read(live)
		if want := cache.GCPercent(live[0].Value.Uint64()); want != now {
			was := debug.SetGCPercent(want)
			if now < 0 {
				defer debug.SetGCPercent(was)
			}
			now = want
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
