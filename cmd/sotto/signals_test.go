// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/internal/e2e/client"
	"sotto/internal/ednstest"
)

// TestClosedLog: `sotto serve 2>&1 | head` loses its log when the reader exits, and goes on.
func TestClosedLog(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, self().Path, append([]string{"serve", "--listen", "127.0.0.1:0"}, zoneServer(t)...)...)
	cmd.Env = append(os.Environ(), self().Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cancel()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	addr := ""
	for sc := bufio.NewScanner(r); addr == "" && sc.Scan(); {
		if m := answering.FindStringSubmatch(sc.Text()); m != nil {
			addr = m[1]
		}
	}
	if err := r.Close(); err != nil || addr == "" {
		t.Fatalf("not ready; %v", err)
	}
	for range 3 { // each reload is logged
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		q := ednstest.Questions[0]
		reply, err := client.Exchange("udp", addr, q.Query())
		if err == nil {
			err = q.Check(reply, true)
		}
		if err != nil {
			t.Fatalf("after the log was closed: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exited with %v", err)
	}
}

// ignoredEnv makes TestIgnoredSignals start a command as `exec` does.
const ignoredEnv = "SOTTO_TEST_IGNORED"

// TestIgnoredSignals: the command of `nohup sotto exec` ignores SIGHUP too, and one that a shell
// starts in the background SIGINT.
func TestIgnoredSignals(t *testing.T) {
	if os.Getenv(ignoredEnv) != "" {
		defer catchSignals().stop()
		out, err := exec.Command("grep", "SigIgn:", "/proc/self/status").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(string(out))
		return
	}
	for names, want := range map[string]uint64{"HUP": 1 << (unix.SIGHUP - 1), "INT": 1 << (unix.SIGINT - 1)} {
		cmd := exec.Command("sh", "-c", `trap "" "$1"; exec "$0" -test.run="^TestIgnoredSignals$"`, self().Path, names)
		cmd.Env = append(os.Environ(), ignoredEnv+"=yes")
		out, err := cmd.CombinedOutput()
		_, mask, _ := strings.Cut(string(out), "SigIgn:")
		mask, _, _ = strings.Cut(strings.TrimSpace(mask), "\n")
		if got, parsed := strconv.ParseUint(mask, 16, 64); err != nil || parsed != nil || got&want == 0 {
			t.Errorf("the caller ignores %s, and the command %#x; %v\n%s", names, got, err, out)
		}
	}
}

// TestEarlySignal: after Ctrl-C during the preparation exec starts no command. Signals that do not
// ask to exit wait for it.
func TestEarlySignal(t *testing.T) {
	for _, tc := range []struct {
		caught []os.Signal
		status int
		left   int // signals
	}{
		{[]os.Signal{unix.SIGINT}, 130, 0},
		{[]os.Signal{unix.SIGWINCH, unix.SIGUSR1, unix.SIGTERM}, 143, 2},
		{[]os.Signal{unix.SIGHUP}, 129, 0},
		{[]os.Signal{unix.SIGQUIT}, 131, 0},
		{[]os.Signal{unix.SIGCONT, unix.SIGUSR2}, exitCannotRun, 2},
		{nil, exitCannotRun, 0},
	} {
		s := &signals{ch: make(chan os.Signal, 16)}
		for _, sig := range tc.caught {
			s.ch <- sig
		}
		var stderr bytes.Buffer
		e := &env{stderr: &stderr}
		// It cannot start in a cgroup that does not exist.
		err := e.runInCgroup(&cgroup.Created{}, exec.Command("true"), s, func() { t.Error("the command was started") })
		if err != exitError(tc.status) || (stderr.Len() > 0) != (tc.status == exitCannotRun) || len(s.ch) != tc.left {
			t.Errorf("%v: %v, %d signals left, %q", tc.caught, err, len(s.ch), &stderr)
		}
	}
}
