// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
	"sotto/internal/takeover"
)

// sealResource matches the resources of a seal in /proc: sockets, programs, maps, links and
// their memory, namespaces, cgroups, state files.
var sealResource = regexp.MustCompile(`socket:|bpf|net:\[|netns|cgroup|/run/sotto`)

// sealResources lists the open files and mapped memory of p that belong to a seal.
func (w world) sealResources(p *e2e.Process) (held []string) {
	w.T.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.Cmd.Process.Pid)
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		w.T.Fatal(err)
	}
	for _, f := range files {
		// It may be closed by now, or have no name. The Go runtime reads its cgroup's CPU limits.
		if to, err := os.Readlink(dir + "fd/" + f.Name()); err == nil && sealResource.MatchString(to) && !strings.Contains(to, "/cpu.") {
			held = append(held, f.Name()+" "+to)
		}
	}
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		w.T.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "bpf-map") {
			held = append(held, line)
		}
	}
	return held
}

// TestWhenReplaced checks when-replaced = "wait", set by a reload: a replaced process
// releases all of the seal and runs until it is stopped, which does not affect the seal.
func TestWhenReplaced(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	args := append(w.RunArgs(g), "--when-replaced=wait")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	e2e.WriteFile(t, config, "")
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--config", config)...)
	e2e.WriteFile(t, config, "when-replaced = \"wait\"\n")
	if _, errs, status := w.Sotto("reload"); status != 0 {
		t.Fatalf("reload: status %d, %s", status, errs)
	}
	k := w.OpenSocket(g)
	slot := k.Ask()
	if all := strings.Join(w.sealResources(p), "\n"); !strings.Contains(all, "bpf-map") || !strings.Contains(all, "bpf-prog") || !strings.Contains(all, "socket:") || !strings.Contains(all, "/run/sotto") {
		t.Fatalf("resources of the seal are missing:\n%s", all)
	}
	n := w.Start("took over", append(args, "--replace")...)
	w.WaitLog(p, "waiting to be stopped")
	works := func(when string) {
		t.Helper()
		if after := k.Ask(); after != slot {
			t.Errorf("%s: the socket's slot was %s, is %s", when, slot, after)
		}
		w.CheckSealed(when, g)
	}
	// Memory is unmapped by the garbage collector.
	for end := time.Now().Add(labtest.Patience(20 * time.Second)); len(w.sealResources(p)) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if held := w.sealResources(p); len(held) > 0 {
		t.Errorf("the replaced process still holds:\n%s", strings.Join(held, "\n"))
	}
	works("with the replaced process waiting")
	w.Signal(p, unix.SIGHUP)
	w.Signal(p, unix.SIGHUP)
	if _, errs, status := w.Sotto("reload"); status != 0 || strings.Count(p.Log(), "reloaded") != 1 {
		t.Errorf("reload: status %d, %s; the waiting process wrote:\n%s", status, errs, p.Log())
	}
	if !p.Running() {
		t.Fatalf("the replaced process did not wait: %v", p.Err)
	}
	w.Signal(p, unix.SIGTERM)
	w.WaitExit(p)
	if n := strings.Count(p.Log(), "waiting to be stopped"); n != 1 {
		t.Errorf("it logged %d times that it waits", n)
	}
	works("after the stop of the waiting process")
	// The next one is stopped during the takeover. Then it exits without waiting.
	h := w.requestSockets(g)
	inst := w.openInstance(g)
	w.requestStop(n)
	if err := h.c.Send(takeover.MsgTake, nil); err != nil {
		t.Fatal(err)
	}
	w.WaitExit(n)
	if err := h.c.Expect(takeover.MsgDone); err != nil { // and no MsgTaken, which is unknown to earlier versions
		t.Error(err)
	}
	h.close()
	if err := inst.Abandon(); err != nil {
		t.Fatal(err)
	}
	last := w.Start("msg=sealed", args...)
	if after := k.AskAfterRestart(); after != slot {
		t.Errorf("at the end the socket's slot is %s, was %s", after, slot)
	}
	w.Stop(last) // by a signal, not by a takeover
	w.NothingLeft()
}
