// SPDX-License-Identifier: Apache-2.0

package run

import (
	"strings"
	"testing"

	"sotto/internal/e2e"
)

// TestRunOnExit checks the state of the seal after a stop and after a crash of `run`.
func TestRunOnExit(t *testing.T) {
	w := newWorld(t)
	a := w.Cgroup("a")
	ask := func() string { return w.Dig(w.Host, a, "+timeout=2", "@8.8.8.8", "exit.example") }
	closed := func(when string) {
		t.Helper()
		if out := ask(); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("%s it was answered:\n%s", when, out)
		}
	}
	answered := func(when, by string) {
		t.Helper()
		if out := ask(); !strings.Contains(out, by) {
			t.Errorf("%s not answered with %s:\n%s", when, by, out)
		}
	}
	start := func(onExit string) *e2e.Process {
		t.Helper()
		return w.Start("msg=sealed", append(w.RunArgs(a), "--on-exit="+onExit)...)
	}

	p := start("strict")
	answered("strict:", e2e.Sealed4)
	w.Kill(p)
	closed("strict, after a crash,")
	p = start("strict") // adopts the leftovers
	answered("strict, started again:", e2e.Sealed4)
	w.Stop(p)
	answered("strict, stopped:", e2e.Plain4)
	w.NothingLeft()

	p = start("closed")
	w.Stop(p)
	if !strings.Contains(p.Log(), "sotto down") {
		t.Error("it did not log how to open the seal")
	}
	closed("closed, after a stop,")
	p = start("closed")
	answered("closed, started again:", e2e.Sealed4)
	w.Stop(p)
	if out, errs, status := w.Sotto("down"); status != 0 {
		t.Fatalf("down: %d\n%s%s", status, out, errs)
	}
	answered("closed, taken down:", e2e.Plain4)
	w.NothingLeft()

	p = start("open")
	answered("open:", e2e.Sealed4)
	w.Kill(p)
	w.Until("the seal to open", func() bool { return strings.Contains(ask(), e2e.Plain4) })
	p = start("open")
	answered("open, started again:", e2e.Sealed4)
	w.Stop(p)
	answered("open, stopped:", e2e.Plain4)
	w.NothingLeft()
}

// TestGuardFlag checks the modes of the guard: packets that no hook redirects are dropped,
// counted or ignored.
func TestGuardFlag(t *testing.T) {
	w := newWorld(t)
	for _, mode := range []string{"drop", "count", "off"} {
		// A raw socket gets EPERM if its packet was dropped.
		_, errs, status := w.Sotto(append(append([]string{"exec", "--guard", mode}, w.UpstreamArgs()...), append([]string{"--"}, e2e.Client("raw-once")...)...)...)
		dropped := status != 0 && strings.Contains(errs, "operation not permitted")
		if dropped != (mode == "drop") {
			t.Errorf("--guard=%s: status %d\n%s", mode, status, errs)
		}
	}
	if _, errs, status := w.Sotto("run", "--guard=maybe", "--check"); status != e2e.ExitUsage || !strings.Contains(errs, "drop, count or off") {
		t.Errorf("--guard=maybe: status %d\n%s", status, errs)
	}
	if _, errs, status := w.Sotto("run", "--on-exit=never", "--check"); status != e2e.ExitUsage || !strings.Contains(errs, "strict, open or closed") {
		t.Errorf("--on-exit=never: status %d\n%s", status, errs)
	}
}
