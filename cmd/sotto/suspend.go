// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sleepCheck is how often the clocks are compared: the first query after a suspend
	// comes seconds after it, when somebody has opened the lid.
	sleepCheck = time.Second

	// leastSleep is shorter than any suspend, and longer than the clocks differ by for
	// want of being read at once on a machine that is busy.
	leastSleep = 2 * time.Second
)

// slept is how long this machine has been suspended since it started: what the one clock
// counts and the other does not (clock_gettime(2)).
func slept() (time.Duration, error) {
	var all, awake unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &all); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(all.Nano() - awake.Nano()), nil
}

// watchSleep calls awake after each suspend, until ctx ends. Connections do not survive
// one for long: the other side, or an address translator on the way, has forgotten them,
// and no timer of this side's has run. Cached answers need nothing: they expire by the
// clock on the wall.
func watchSleep(ctx context.Context, log *slog.Logger, every time.Duration, slept func() (time.Duration, error), awake func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, err := slept()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := slept()
		if err != nil {
			return err
		}
		if now-last > leastSleep {
			log.Info("awake again: connections to upstreams are made anew", "slept", (now - last).Round(time.Second))
			awake()
		}
		last = now
	}
}
