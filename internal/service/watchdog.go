// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"log/slog"
	"strconv"
	"time"
)

// WatchdogTime returns the time within which the service manager expects the next keep-alive
// of the process pid, or 0 if it expects none ($WATCHDOG_USEC, $WATCHDOG_PID).
func WatchdogTime(getenv func(string) string, pid int) time.Duration {
	micros, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || micros <= 0 {
		return 0
	}
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return 0
	}
	return time.Duration(micros) * time.Microsecond
}

// Watchdog sends keep-alives while queries are answered.
type Watchdog struct {
	// Time is that of [WatchdogTime]. If it is 0, Run does nothing.
	Time time.Duration

	// Socket is the service manager's ($NOTIFY_SOCKET).
	Socket string

	// Probe sends a query to the process itself and returns nil when it is answered.
	Probe func(context.Context) error

	// Replies returns the number of replies that the process has sent to clients since the start.
	// An overloaded process may lose the query of Probe, and is healthy as long as this number
	// grows.
	Replies func() uint64

	Log *slog.Logger
}

// checks is the number of checks in Time: two of them may fail.
const checks = 3

// Run checks and sends keep-alives until ctx ends.
func (w Watchdog) Run(ctx context.Context) {
	if w.Time <= 0 {
		return
	}
	tick := time.NewTicker(w.Time / checks)
	defer tick.Stop()
	for replies := w.Replies(); ; {
		before := replies
		err := w.probe(ctx)
		if replies = w.Replies(); err == nil || replies != before {
			Notify(w.Socket, Alive)
		} else if ctx.Err() == nil {
			w.Log.Warn("own query not answered: the service manager restarts this process if that continues", "err", err, "watchdog", w.Time)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w Watchdog) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.Time/checks)
	defer cancel()
	return w.Probe(ctx)
}

// KeepAlive sends keep-alives of a process that answers no queries, until stop is closed.
func KeepAlive(socket string, interval time.Duration, stop <-chan struct{}) {
	if interval <= 0 {
		<-stop
		return
	}
	tick := time.NewTicker(interval / checks)
	defer tick.Stop()
	for {
		Notify(socket, Alive)
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}
