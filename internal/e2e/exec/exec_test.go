// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// TestExecStatusAndOutput checks that the exit status and output of exec are the command's.
func TestExecStatusAndOutput(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		stdout string
	}{
		{"true", []string{"true"}, 0, ""},
		{"status", []string{"sh", "-c", "exit 42"}, 42, ""},
		{"signal", []string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{"output", []string{"sh", "-c", "echo out"}, 0, "out\n"},
		{"flags", []string{"echo", "--upstream", "-x"}, 0, "--upstream -x\n"},
		{"not there", []string{"/no/such/program"}, e2e.ExitNotFound, ""},
		{"not in PATH", []string{"no-such-program"}, e2e.ExitNotFound, ""},
		{"not a program", []string{"/etc/passwd"}, e2e.ExitCannotRun, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, status := w.Exec(tc.args...)
			if status != tc.status || stdout != tc.stdout {
				t.Errorf("status %d, stdout %q: want %d and %q\n%s", status, stdout, tc.status, tc.stdout, stderr)
			}
			if tc.status < e2e.ExitCannotRun && stderr != "" {
				t.Errorf("exec wrote to stderr: %q", stderr)
			}
		})
	}
	w.NothingLeft()
}

// TestExecTerminated checks that exec forwards SIGTERM to the command, cleans up when that has
// exited, and kills the processes that the command has left.
func TestExecTerminated(t *testing.T) {
	w := newWorld(t)
	args := append(append([]string{"exec"}, w.UpstreamArgs()...), "--", "sh", "-c", "sleep 1000 & echo left $!; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	p := w.Start("ready", args...)
	if err := p.Cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done:
	case <-time.After(labtest.Patience(20 * time.Second)):
		t.Fatal("it did not exit within 20 s of SIGTERM")
	}
	if status := p.Cmd.ProcessState.ExitCode(); status != 3 {
		t.Errorf("status %d: want the command's 3\n%s", status, p.Log())
	}
	_, pid, _ := strings.Cut(p.Log(), "left ")
	pid, _, _ = strings.Cut(pid, "\n")
	// It may be a zombie until the machine's init waits for it.
	if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("process %s still runs, without the seal: %s", pid, stat)
	}
	w.NothingLeft()
}

// TestConcurrentExecs runs several execs concurrently.
func TestConcurrentExecs(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	dig := labtest.NeedTool(t, "dig")
	type result struct {
		stdout, stderr string
		status         int
	}
	results := make(chan result)
	const n = 4
	for range n {
		go func() {
			stdout, stderr, status := w.Exec("sh", "-c", dig+" +short @8.8.8.8 one.example.com; sleep 1; "+dig+" +short @8.8.8.8 two.example.com")
			results <- result{stdout, stderr, status}
		}()
	}
	for range n {
		if r := <-results; r.status != 0 || r.stdout != e2e.Sealed4+"\n"+e2e.Sealed4+"\n" {
			t.Errorf("status %d: %q %q", r.status, r.stdout, r.stderr)
		}
	}
	w.NothingLeft()
}

// TestExecInsideRun checks that exec inside a sealed cgroup seals its command itself.
func TestExecInsideRun(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("outer")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	cmd := w.Command(t.Context(), g, append(append([]string{"exec"}, w.UpstreamArgs()...), "--", "dig", "+short", "@8.8.8.8", "inner.example")...)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != e2e.Sealed4+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if strings.Contains(p.Log(), "inner.example") {
		t.Error("the outer seal answered a query of the inner one")
	}
	if out := w.Dig(w.Host, g, "@8.8.8.8", "outer.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("the outer seal no longer answers:\n%s", out)
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestExecKilled checks that after kill -9 of exec the queries of its command fail, and that
// the next exec or `down` removes the leftovers.
func TestExecKilled(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	dig := labtest.NeedTool(t, "dig")
	out := filepath.Join(t.TempDir(), "out")
	script := "echo ready; while :; do " + dig + " +short +tries=1 +timeout=1 @8.8.8.8 k.example >>" + out + " 2>&1; sleep 0.05; done"
	p := w.Start("ready", append(append([]string{"exec"}, w.UpstreamArgs()...), "--", "sh", "-c", script)...)
	read := func() string { b, _ := os.ReadFile(out); return string(b) }
	w.Until("the command to resolve", func() bool { return strings.Contains(read(), e2e.Sealed4) })
	w.Kill(p)
	before := strings.Count(read(), e2e.Sealed4)
	w.Until("its queries to fail", func() bool {
		return strings.Contains(read(), "timed out") || strings.Contains(read(), "no servers") || strings.Contains(read(), "error")
	})
	if n := strings.Count(read(), e2e.Sealed4); n > before+1 { // one may have been in flight
		t.Errorf("%d answers after Sotto was killed", n-before)
	}
	if stdout, stderr, status := w.Exec(dig, "+short", "@8.8.8.8", "again.example"); status != 0 || stdout != e2e.Sealed4+"\n" {
		t.Errorf("the next exec: status %d, %q %q", status, stdout, stderr)
	}
	if _, stderr, status := w.Sotto("down"); status != 0 {
		t.Errorf("down: status %d, %q", status, stderr)
	}
	w.NothingLeft()
}
