// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// suspendInterval is how often the clocks are compared. The first query after a suspend
	// comes seconds after it.
	suspendInterval = time.Second

	// minSuspend is shorter than any suspend, and longer than the delay between the reads of
	// the two clocks on a busy machine.
	minSuspend = 2 * time.Second
)

// suspended returns how long this machine has been suspended since it started: the
// difference between CLOCK_BOOTTIME and CLOCK_MONOTONIC (clock_gettime(2)).
func suspended() (time.Duration, error) {
	var total, awake unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &total); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(total.Nano() - awake.Nano()), nil
}

// watchSuspend calls resumed after each suspend, until ctx ends. Connections do not survive
// a long suspend: the server, or a NAT on the path, has dropped them, and no timer of this
// process ran. Cached answers need nothing, because they expire by wall-clock time.
func watchSuspend(ctx context.Context, log *slog.Logger, interval time.Duration, suspended func() (time.Duration, error), resumed func()) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last, err := suspended()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := suspended()
		if err != nil {
			return err
		}
		if now-last > minSuspend {
			log.Info("resumed from suspend: reconnecting to upstreams", "suspended", (now - last).Round(time.Second))
			resumed()
		}
		last = now
	}
}
