// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
)

// TestProbes: with probe-socket, each of two processes answers `sotto status --ready` for
// itself, from its start until it exits, and nothing else.
func TestProbes(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	config := func(name string) (file string) {
		file = filepath.Join(t.TempDir(), "sotto.toml")
		socket := filepath.Join(filepath.Dir(file), name+".sock")
		e2e.WriteFile(t, file, fmt.Sprintf("probe-socket = %q\nwhen-replaced = \"wait\"\n", socket))
		return file
	}
	// expect asks the process with a configuration. want is its answer, "" if it is ready.
	expect := func(when, file, want string) {
		t.Helper()
		_, errs, status := w.Sotto("status", "--ready", "--config", file)
		if (status == 0) != (want == "") || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d, %s, want %q", when, status, errs, want)
		}
	}
	a, b := config("a"), config("b")
	expect("before the start", a, "no Sotto listens")
	// While another process holds the seal, it waits: it is alive but not ready.
	inst := w.openInstance(g)
	old := w.Start("waiting for the running Sotto", append(w.RunArgs(g), "--config", a, "--replace")...)
	expect("it waits", a, "starting")
	if err := inst.Abandon(); err != nil {
		t.Fatal(err)
	}
	w.WaitLog(old, "msg=sealed")
	expect("the old one", a, "")
	expect("the new one before its start", b, "no Sotto listens")
	next := w.Start("took over", append(w.RunArgs(g), "--config", b, "--replace")...)
	w.WaitLog(old, "waiting to be stopped")
	expect("the old one was replaced", a, "")
	expect("the new one has taken over", b, "")
	if _, errs, status := w.Sotto("status", "--control", filepath.Join(filepath.Dir(a), "a.sock")); status == 0 || !strings.Contains(errs, "does not support this") {
		t.Errorf("the probe's socket answers another request: status %d, %s", status, errs)
	}
	w.Signal(old, unix.SIGTERM)
	w.WaitExit(old)
	expect("the old one has exited", a, "no Sotto listens")
	expect("the new one remains", b, "")
	w.Stop(next)
	expect("the new one has stopped", b, "no Sotto listens")
	w.NothingLeft()
}
