// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// checkClock checks the clock, which the validity of certificates depends on.
func checkClock(_ context.Context, m *machine) Result {
	return judgeClock("clock", time.Now(), buildTime(), synchronized(), m.wrongTimes)
}

// judgeClock judges the time now. built is when this program was built, zero if unknown.
// wrongTimes are the servers whose certificates are not valid now.
func judgeClock(name string, now, built time.Time, synced bool, wrongTimes []string) Result {
	const fix = "timedatectl set-ntp true, or date --set"
	text := now.UTC().Format("2006-01-02 15:04 MST")
	switch {
	case now.Before(built):
		return failed(name, fix, "%s is before this program was built (%s)", text, built.UTC().Format(time.DateOnly))
	case len(wrongTimes) > 0:
		return warning(name, fix+", if this is not the time", "%s: certificates are not valid at this time: %s", text, strings.Join(wrongTimes, ", "))
	case !synced:
		return ok(name, "%s, not synchronized", text)
	}
	return ok(name, "%s, synchronized", text)
}

// synchronized reports whether the kernel knows of a synchronization.
func synchronized() bool {
	var t unix.Timex
	_, err := unix.Adjtimex(&t)
	return err == nil && t.Status&unix.STA_UNSYNC == 0
}

// buildTime returns the time of the commit that this program was built from.
func buildTime() time.Time {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}
