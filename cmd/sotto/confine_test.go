// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// statusOf reads what every thread of a process holds, and fails the test where two
// differ.
func (w *world) statusOf(pid int) map[string]string {
	w.t.Helper()
	var all map[string]string
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		w.t.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it just ended
		}
		one := readStatus(string(text))
		if all != nil && fmt.Sprint(all) != fmt.Sprint(one) {
			w.t.Errorf("%s: %v, and another thread has %v", task, one, all)
		}
		all = one
	}
	return all
}

func readStatus(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			all[key] = strings.TrimSpace(value)
		}
	}
	return all
}

// mask is the capabilities named, of those that this process has.
func mask(t *testing.T, names ...string) string {
	t.Helper()
	numbers := map[string]uint{
		"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_BPF": unix.CAP_BPF,
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := strconv.ParseUint(readStatus(string(text))["CapPrm"], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, name := range names {
		n, ok := numbers[name]
		if !ok {
			t.Fatalf("add %s to this test", name)
		}
		want |= 1 << n
	}
	return fmt.Sprintf("%016x", mine&want)
}

// TestConfined: once they are set up, the daemons hold what they need and no more, in
// every thread; a sealed command holds what its caller does.
func TestConfined(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	const none = "0000000000000000"
	check := func(verb string, got map[string]string, caps string) {
		t.Helper()
		for key, want := range map[string]string{"CapPrm": caps, "CapEff": caps, "CapInh": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"} {
			if got[key] != want {
				t.Errorf("%s: %s is %s, want %s", verb, key, got[key], want)
			}
		}
	}
	// What is there already, and more open.
	if err := os.MkdirAll("/run/sotto", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, "/run/sotto/sotto.lock", "")
	if err := errors.Join(os.Chmod("/run/sotto", 0o755), os.Chmod("/run/sotto/sotto.lock", 0o644)); err != nil {
		t.Fatal(err)
	}
	p := w.start("sealed", w.runArgs(g)...)
	check("run", w.statusOf(p.cmd.Process.Pid), mask(t, keepRun...))
	p = w.next(p, w.runArgs(g)...)
	check("run --replace", w.statusOf(p.cmd.Process.Pid), mask(t, keepRun...))
	w.modes(map[string]fs.FileMode{
		"/sys/fs/bpf/sotto": fs.ModeDir | 0o700, "/sys/fs/bpf/sotto/sotto": fs.ModeDir | 0o700, "/run/sotto": fs.ModeDir | 0o700,
		"/run/sotto/sotto.lock": 0o600, "/run/sotto/lock": 0o600, defaultControl: fs.ModeSocket | 0o600,
	})
	w.stop(p)

	s := w.start("answering", append([]string{"serve", "--listen", "127.0.0.1:53"}, w.upstreamArgs()...)...)
	if out := w.dig(w.host, nil, "@127.0.0.1", "served.example"); !strings.Contains(out, sealed4) {
		t.Errorf("serve:\n%s", out)
	}
	check("serve", w.statusOf(s.cmd.Process.Pid), none)
	w.stop(s)

	outside, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	inside, errs, status := w.exec("cat", "/proc/self/status")
	if status != 0 || fmt.Sprint(readStatus(inside)) != fmt.Sprint(readStatus(string(outside))) {
		t.Errorf("a sealed command has %v, its caller %v; status %d, %s", readStatus(inside), readStatus(string(outside)), status, errs)
	}
	w.nothingLeft()
}

// modes checks who may look.
func (w *world) modes(want map[string]fs.FileMode) {
	w.t.Helper()
	for path, mode := range want {
		info, err := os.Lstat(path)
		if err != nil {
			w.t.Error(err)
			continue
		}
		if info.Mode() != mode || info.Sys().(*syscall.Stat_t).Uid != 0 {
			w.t.Errorf("%s: mode %v, want %v of root's", path, info.Mode(), mode)
		}
	}
}
