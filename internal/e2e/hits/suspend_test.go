// SPDX-License-Identifier: Apache-2.0

package hits

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"sotto/internal/e2e"
)

const (
	wakeAlarm  = "/sys/class/rtc/rtc0/wakealarm"
	powerState = "/sys/power/state"
	sleepState = "/sys/power/mem_sleep"
)

// TestSuspend suspends the machine for longer than an answer lives, under load. The kernel's answers age
// meanwhile: no reply is from before the suspend.
func TestSuspend(t *testing.T) {
	if os.Getenv(e2e.WholeHostVar) == "" {
		t.Skipf("skipped: it suspends the machine; %s=1 allows that, on a machine for tests", e2e.WholeHostVar)
	}
	states, err := os.ReadFile(sleepState)
	if err != nil || !strings.Contains(string(states), "deep") {
		t.Skipf("skipped: this machine cannot be suspended to memory: %s has %s", sleepState, strings.TrimSpace(string(states)))
	}
	const maxTTL, suspended = 20 * time.Second, 30 * time.Second
	w := newWorld(t)
	w.configure(fmt.Sprintf("max-ttl = %q", maxTTL), `serve-stale = "0s"`)
	w.seal()
	before, after := "192.0.2.100", "192.0.2.101"
	w.Handler.Set(w.Zone(before, "2001:db8::1"))
	v := w.startVersions("versioned.example", "8.8.8.8", "2001:4860:4860::8888")
	v.settled("before the suspend", before)

	v.expect("any")
	w.Handler.Set(w.Zone(after, "2001:db8::1"))
	slept := suspend(t, suspended)
	v.expect(after)
	if out := w.digUsual("versioned.example"); !strings.Contains(out, after) {
		t.Errorf("%v of suspend, longer than the TTL of %v, and the answer is still an older one:\n%s", slept, maxTTL, out)
	}
	v.settled(fmt.Sprintf("after %v of suspend", slept.Round(time.Second)), after)
	v.stop()
}

// suspend suspends the machine to memory until its clock wakes it. It returns how long that was.
func suspend(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	before := time.Now().Round(0) // the monotonic clock stands still
	for _, s := range []struct{ file, text string }{
		{sleepState, "deep"}, {wakeAlarm, "0"}, {wakeAlarm, fmt.Sprintf("+%d", int(d.Seconds()))}, {powerState, "mem"},
	} {
		if err := os.WriteFile(s.file, []byte(s.text), 0); err != nil {
			t.Fatal(err)
		}
	}
	slept := time.Now().Round(0).Sub(before)
	if slept < d-2*time.Second {
		t.Fatalf("the machine was suspended for %v, want %v", slept, d)
	}
	return slept
}
