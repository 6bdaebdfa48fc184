// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/control"
)

// replaceRate is the number of queries per second; on a slow machine it is less.
const replaceRate = 5000

// replace starts a `run --replace` and waits until it has taken over from p.
func (w *world) replace(p *process, args ...string) *process {
	w.t.Helper()
	n := w.start("msg=sealed", append(args, "--replace")...)
	select {
	case <-p.done:
		if p.err != nil {
			w.t.Errorf("the predecessor exited with: %v", p.err)
		}
	case <-time.After(30 * time.Second):
		w.t.Fatalf("the predecessor does not exit:\n%s", p.log())
	}
	w.until("the takeover to finish", func() bool { return strings.Contains(n.log(), "took over") })
	return n
}

// TestReplaceUnderLoad makes ten takeovers under load. Clients of every kind notice none of
// them: no query is lost and no connection is closed, a socket from before the first
// takeover still resolves, and slots keep their numbers.
func TestReplaceUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	args := w.runArgs(g)[2:] // without --log-queries
	args = append([]string{"run"}, args...)
	p := w.start("sealed", args...)
	old := w.openSocket(g)
	before := old.ask()
	r := w.startLoad(g, replaceRate)
	started := time.Now()
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		p = w.replace(p, args...)
		if after := old.ask(); after != before {
			t.Errorf("the socket's slot was %s, is %s", before, after)
		}
	}
	report := r.stop()
	if report.Lost+report.Reset+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 || report.Short == 0 {
		t.Errorf("%+v", report)
	}
	t.Logf("%+v in %s", report, time.Since(started).Round(time.Millisecond))
	w.stop(p)
	w.nothingLeft()
}

// TestReplaceFails checks that a process that fails before the takeover changes nothing: one
// that is killed, one with a wrong configuration, one with other terms.
func TestReplaceFails(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g, other := w.cgroup("workload"), w.cgroup("other")
	args := w.runArgs(g)
	p := w.start("sealed", args...)
	old := w.openSocket(g)
	before := old.ask()
	works := func(when string) {
		t.Helper()
		if after := old.ask(); after != before {
			t.Errorf("%s: the socket's slot was %s, is %s", when, before, after)
		}
		if out := w.dig(w.host, g, "+tcp", "@1.1.1.1", "after.example"); !strings.Contains(out, sealed4) {
			t.Errorf("%s:\n%s", when, out)
		}
	}
	for what, tc := range map[string]struct{ with, want string }{
		"another prefix":        {"--config=" + filepath.Join(t.TempDir(), "prefix.toml"), "prefix4 is 198.19.0.0/16 here"},
		"a flag that is wrong":  {"--policy=none", "none"},
		"a missing file":        {"--ca-file=/nonexistent", "/nonexistent"},
		"a port that cannot be": {"--config=" + filepath.Join(t.TempDir(), "port.toml"), "ports"},
	} {
		if file, ok := strings.CutPrefix(tc.with, "--config="); ok {
			write(t, file, map[string]string{"prefix.toml": "prefix4 = \"198.19.4.0/24\"\n", "port.toml": "ports = [0]\n"}[filepath.Base(file)])
		}
		_, errs, status := w.sotto(append(args, "--replace", tc.with)...)
		if status == 0 || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: status %d, %s", what, status, errs)
		}
		works(what)
	}
	if _, errs, status := w.sotto(append(w.runArgs(other), "--replace")...); status != exitFailure || !strings.Contains(errs, "the new one does not") {
		t.Errorf("another cgroup: status %d, %s", status, errs)
	}
	works("another cgroup")

	// A process that receives the sockets and exits.
	u, err := control.Replace(t.Context(), defaultControl, runTerms(g, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte{sayReady, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if n, _, _, _, err := u.ReadMsgUnix(buf, nil); err != nil || n == 0 || buf[0] != saySockets {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	works("during the takeover")
	_ = u.Close()
	w.until("the instance to be reclaimed", func() bool { return strings.Contains(p.log(), "resuming") })
	works("after the failed takeover")
	w.until("it to listen again", func() bool {
		_, errs, status := w.sotto("reload")
		return status == 0 || !strings.Contains(errs, "no Sotto listens")
	})
	// A real process, killed during the takeover.
	killed := w.start("msg=sealed", append(args, "--replace")...)
	w.kill(killed)
	// It may have taken over by then. Either way one of the two runs, or the seal stays
	// closed.
	select {
	case <-p.done:
		p = w.start("sealed", args...)
	case <-time.After(3 * time.Second):
	}
	works("after a killed successor")
	p = w.replace(p, args...)
	works("after a takeover")
	w.stop(p)
	w.nothingLeft()
}

// TestReplaceWithoutPredecessor checks that --replace starts normally if no process runs,
// also after one was killed.
func TestReplaceWithoutPredecessor(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	args := append(w.runArgs(g), "--replace")
	for range 2 {
		p := w.start("sealed", args...)
		if out := w.dig(w.host, g, "@8.8.8.8", "first.example"); !strings.Contains(out, sealed4) {
			t.Error(out)
		}
		w.kill(p)
	}
	w.stop(w.start("sealed", args...))
	w.nothingLeft()
	if _, errs, status := w.sotto(append(args, "--control=off")...); status != exitFailure || !strings.Contains(errs, "control socket") {
		t.Errorf("without a control socket: status %d, %s", status, errs)
	}
}

// TestReplaceKeepsAlive checks that with --on-exit=open a slow takeover does not open the
// seal.
func TestReplaceKeepsAlive(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	p := w.start("sealed", append(w.runArgs(g), "--on-exit=open")...)
	h := w.requestSockets(g)
	time.Sleep(openAfter + time.Second)
	if out := w.dig(w.host, g, "@8.8.8.8", "alive.example"); !strings.Contains(out, sealed4) {
		t.Errorf("during a slow takeover:\n%s", out)
	}
	h.close()
	w.until("the instance to be reclaimed", func() bool { return strings.Contains(p.log(), "reclaimed the seal") })
	w.stop(p)
	w.nothingLeft()
}
