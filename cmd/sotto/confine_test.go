// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/e2e"
	"sotto/internal/privdrop"
	"sotto/internal/privdrop/privdroptest"
)

type world struct{ *e2e.World }

// statusOf reads the privileges of every thread of a process. It fails the test if two
// threads differ.
func (w world) statusOf(pid int) map[string]string {
	w.T.Helper()
	var all map[string]string
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		w.T.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has exited
		}
		one := readStatus(string(text))
		if all != nil && fmt.Sprint(all) != fmt.Sprint(one) {
			w.T.Errorf("%s: %v, another thread has %v", task, one, all)
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

// mask returns the bit mask of the named capabilities that this process has.
func mask(t *testing.T, names ...string) string {
	t.Helper()
	numbers := map[string]uint{
		"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_BPF": unix.CAP_BPF,
		"CAP_KILL": unix.CAP_KILL, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
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

// callsEnv names a directory. A sotto under test listens there on a socket named by its
// process ID, and reports which system calls it is refused.
const callsEnv = "SOTTO_TEST_CALLS"

func callsSocket(dir string, pid int) string { return filepath.Join(dir, strconv.Itoa(pid)) }

// callLists returns the system calls that any of the verbs gives up.
func callLists() []uint32 { return append(privdrop.Unused(), privdrop.Kernel()...) }

// answerCalls makes this process try all of them for each connection to its socket.
func answerCalls() error {
	dir := os.Getenv(callsEnv)
	if dir == "" {
		return nil
	}
	if err := os.Unsetenv(callsEnv); err != nil {
		return err
	}
	l, err := net.Listen("unix", callsSocket(dir, os.Getpid()))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if answers, err := privdroptest.Answers(callLists()); err != nil {
				fmt.Fprintln(os.Stderr, err)
			} else {
				_ = json.NewEncoder(c).Encode(answers)
			}
			_ = c.Close()
		}
	}()
	return nil
}

// refuses checks that a process is refused exactly the given calls of the lists.
func (w world) refuses(verb, dir string, pid int, refused []uint32) {
	w.T.Helper()
	c, err := net.Dial("unix", callsSocket(dir, pid))
	if err != nil {
		w.T.Fatal(err)
	}
	defer c.Close()
	var answers map[uint32]syscall.Errno
	if err := json.NewDecoder(c).Decode(&answers); err != nil {
		w.T.Fatalf("%s: %v", verb, err)
	}
	for _, nr := range callLists() {
		want := privdroptest.Unfiltered
		if slices.Contains(refused, nr) {
			want = unix.EPERM
		}
		if got, ok := answers[nr]; !ok || got != want {
			w.T.Errorf("%s: system call %d: %v (tried: %t), want %v", verb, nr, got, ok, want)
		}
	}
}

// TestConfined checks that after their start the daemons have only the privileges that they
// need, in every thread, and that a sealed command has those of its caller.
func TestConfined(t *testing.T) {
	w := world{e2e.NewWith(t, self())}
	g := w.Cgroup("workload")
	calls := t.TempDir()
	t.Setenv(callsEnv, calls)
	const none = "0000000000000000"
	check := func(verb string, pid int, caps string, refused []uint32) {
		t.Helper()
		got := w.statusOf(pid)
		for key, want := range map[string]string{"CapPrm": caps, "CapEff": caps, "CapInh": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"} {
			if got[key] != want {
				t.Errorf("%s: %s is %s, want %s", verb, key, got[key], want)
			}
		}
		w.refuses(verb, calls, pid, refused)
	}
	// These exist already, with other modes.
	if err := os.MkdirAll("/run/sotto", 0o755); err != nil {
		t.Fatal(err)
	}
	e2e.WriteFile(t, "/run/sotto/sotto.lock", "")
	if err := errors.Join(os.Chmod("/run/sotto", 0o755), os.Chmod("/run/sotto/sotto.lock", 0o644)); err != nil {
		t.Fatal(err)
	}
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	check("run", p.Cmd.Process.Pid, mask(t, daemon.RunCapabilities...), privdrop.Unused())
	p = w.Replace(p, w.RunArgs(g)...)
	check("run --replace", p.Cmd.Process.Pid, mask(t, daemon.RunCapabilities...), privdrop.Unused())
	w.modes(map[string]fs.FileMode{
		"/sys/fs/bpf/sotto": fs.ModeDir | 0o700, "/sys/fs/bpf/sotto/sotto": fs.ModeDir | 0o700, "/run/sotto": fs.ModeDir | 0o700,
		"/run/sotto/sotto.lock": 0o600, "/run/sotto/lock": 0o600, config.DefaultControl: fs.ModeSocket | 0o600,
	})
	w.Stop(p)

	s := w.Start("answering", append([]string{"serve", "--listen", "127.0.0.1:53"}, w.UpstreamArgs()...)...)
	if out := w.Dig(w.Host, nil, "@127.0.0.1", "served.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("serve:\n%s", out)
	}
	check("serve", s.Cmd.Process.Pid, none, callLists())
	w.Stop(s)

	x := w.Start("dropped privileges", append(append([]string{"exec", "--log-level", "debug"}, w.UpstreamArgs()...), "--", "sh", "-c", "trap 'exit 0' INT; echo ready; while :; do sleep 0.05; done")...)
	w.Until("the command to be ready", func() bool { return strings.Contains(x.Log(), "ready") })
	check("exec", x.Cmd.Process.Pid, mask(t, daemon.ExecCapabilities...), privdrop.Unused())
	w.Stop(x)

	// A process that has dropped no privileges is refused no call.
	answers, err := privdroptest.Answers(callLists())
	if err != nil {
		t.Fatal(err)
	}
	for nr, got := range answers {
		if got != privdroptest.Unfiltered {
			t.Errorf("unconfined: system call %d: %v, want %v", nr, got, privdroptest.Unfiltered)
		}
	}
	outside, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	inside, errs, status := w.Exec("cat", "/proc/self/status")
	if status != 0 || fmt.Sprint(readStatus(inside)) != fmt.Sprint(readStatus(string(outside))) {
		t.Errorf("a sealed command has %v, its caller %v; status %d, %s", readStatus(inside), readStatus(string(outside)), status, errs)
	}
	w.NothingLeft()
}

// modes checks the modes of files, and that root owns them.
func (w world) modes(want map[string]fs.FileMode) {
	w.T.Helper()
	for path, mode := range want {
		info, err := os.Lstat(path)
		if err != nil {
			w.T.Error(err)
			continue
		}
		if info.Mode() != mode || info.Sys().(*syscall.Stat_t).Uid != 0 {
			w.T.Errorf("%s: mode %v, want %v and root as its owner", path, info.Mode(), mode)
		}
	}
}
