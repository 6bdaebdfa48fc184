// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sotto/intercept/cgroup"
	"sotto/internal/observe"
)

const (
	// forgetInterval is how often workloads whose cgroups were removed are forgotten. It is longer
	// than most intervals between two scrapes, so most metrics have their last queries.
	forgetInterval = time.Minute

	// crowdedInterval is the same while the hub has few places for new workloads.
	crowdedInterval = 5 * time.Second
)

// forgetWorkloads forgets workloads whose cgroups were removed, until ctx ends: otherwise they would
// keep their places, and every later workload would be counted as [observe.Other].
func (d *daemon) forgetWorkloads(ctx context.Context) {
	root, err := cgroup.Root()
	if err != nil {
		d.log.Warn("removed workloads keep their places in status and metrics", "err", err)
		return
	}
	forgetRemoved(ctx, d.hub, root)
}

// forgetRemoved is forgetWorkloads for cgroups below the directory root.
func forgetRemoved(ctx context.Context, hub *observe.Hub, root string) {
	tick := time.NewTicker(crowdedInterval)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !hub.Crowded() && now.Sub(last) < forgetInterval {
				continue
			}
			last = now
			hub.Forget(func(workload string) bool { return isRemoved(root, workload) })
		}
	}
}

// isRemoved reports whether the cgroup of a workload does not exist below root. That of queries
// whose workload is not known is "".
func isRemoved(root, workload string) bool {
	if workload == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(root, workload))
	return errors.Is(err, fs.ErrNotExist)
}
