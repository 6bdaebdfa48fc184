// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heldOfSeal is what a process holds of a seal, as /proc shows it: sockets, programs, maps,
// links and their memory, namespaces, cgroups, records.
var heldOfSeal = regexp.MustCompile(`socket:|bpf|net:\[|netns|cgroup|/run/sotto`)

// held lists the open files and mapped memory of p that belong to a seal.
func (w *world) held(p *process) (held []string) {
	w.t.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		// It may have been closed, or be no link of a file that has a name.
		// The Go runtime reads the limits of its cgroup.
		if to, err := os.Readlink(dir + "fd/" + f.Name()); err == nil && heldOfSeal.MatchString(to) && !strings.Contains(to, "/cpu.") {
			held = append(held, f.Name()+" "+to)
		}
	}
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "bpf-map") {
			held = append(held, line)
		}
	}
	return held
}

// TestWhenReplaced: a replaced process that is to wait, since a reload, holds nothing of
// the seal, stays until it is stopped, and the seal takes no notice of that.
func TestWhenReplaced(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	args := append(w.runArgs(g), "--when-replaced=wait")
	config := filepath.Join(t.TempDir(), "sotto.toml")
	write(t, config, "")
	p := w.start("sealed", append(w.runArgs(g), "--config", config)...)
	write(t, config, "when-replaced = \"wait\"\n")
	if _, errs, status := w.sotto("reload"); status != 0 {
		t.Fatalf("reload: status %d, %s", status, errs)
	}
	k := w.keepAsking(g)
	slot := k.ask()
	if all := strings.Join(w.held(p), "\n"); !strings.Contains(all, "bpf-map") || !strings.Contains(all, "bpf-prog") || !strings.Contains(all, "socket:") || !strings.Contains(all, "/run/sotto") {
		t.Fatalf("the one that seals holds no more than this:\n%s", all)
	}
	n := w.start("took over", append(args, "--replace")...)
	w.says(p, "waiting to be stopped")
	works := func(when string) {
		t.Helper()
		if after := k.ask(); after != slot {
			t.Errorf("%s: the socket's slot was %s, is %s", when, slot, after)
		}
		w.resolves(when, g)
	}
	// Memory is unmapped by the garbage collector.
	for end := time.Now().Add(20 * time.Second); len(w.held(p)) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if held := w.held(p); len(held) > 0 {
		t.Errorf("it holds:\n%s", strings.Join(held, "\n"))
	}
	works("beside one that waits")
	w.signal(p, unix.SIGHUP)
	w.signal(p, unix.SIGHUP)
	if _, errs, status := w.sotto("reload"); status != 0 || strings.Count(p.log(), "reloaded") != 1 {
		t.Errorf("reload: status %d, %s; the one that waits wrote:\n%s", status, errs, p.log())
	}
	if !p.runs() {
		t.Fatalf("it did not wait: %v", p.err)
	}
	w.signal(p, unix.SIGTERM)
	w.ended(p)
	if n := strings.Count(p.log(), "waiting to be stopped"); n != 1 {
		t.Errorf("it said %d times that it waits", n)
	}
	works("after the stop of one that waited")
	// The next is stopped during the takeover: then there is nothing to wait for.
	h := w.ask(g)
	inst := w.openInstance(g)
	w.askToStop(n)
	if err := h.c.Send(sayTake, nil); err != nil {
		t.Fatal(err)
	}
	w.ended(n)
	if err := expect(h.c, sayDone); err != nil { // and no sayTaken, which an earlier version does not know
		t.Error(err)
	}
	h.close()
	if err := inst.Abandon(); err != nil {
		t.Fatal(err)
	}
	last := w.start("msg=sealed", args...)
	if after := k.askPast(); after != slot {
		t.Errorf("in the end the socket's slot is %s, was %s", after, slot)
	}
	w.stop(last) // by a signal: it is not replaced
	w.nothingLeft()
}

// TestWhenReplacedValue: the settings are checked.
func TestWhenReplacedValue(t *testing.T) {
	if _, errs, status := call(t, "run", "--when-replaced=never", "--check"); status != exitUsage || !strings.Contains(errs, "want exit or wait") {
		t.Errorf("--when-replaced=never: status %d\n%s", status, errs)
	}
	if _, errs, status := call(t, "run", "--replace=never", "--check"); status != exitUsage || !strings.Contains(errs, "--replace=back") {
		t.Errorf("--replace=never: status %d\n%s", status, errs)
	}
	for _, flag := range []string{"--replace", "--replace=true", "--replace=false", "--replace=back"} {
		if _, errs, status := call(t, "run", flag, "--check", "--cgroup", "/"); status != 0 {
			t.Errorf("%s: status %d\n%s", flag, status, errs)
		}
	}
}
