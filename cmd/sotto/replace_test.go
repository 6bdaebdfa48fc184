// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/control"
)

// replaceRate is what the load asks for a second; who cannot keep up asks less.
const replaceRate = 5000

// next starts a `run --replace` and waits until it has taken over from p.
func (w *world) next(p *process, args ...string) *process {
	w.t.Helper()
	n := w.start("msg=sealed", append(args, "--replace")...)
	select {
	case <-p.done:
		if p.err != nil {
			w.t.Errorf("the one before ended with: %v", p.err)
		}
	case <-time.After(30 * time.Second):
		w.t.Fatalf("the one before does not end:\n%s", p.log())
	}
	w.until("the next to be done", func() bool { return strings.Contains(n.log(), "took over") })
	return n
}

// TestReplaceUnderLoad: ten takeovers in a row, and clients of every kind notice none of
// them: no query is lost, no connection closed, a socket from before the first still
// resolves, and slots keep their numbers.
func TestReplaceUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	args := w.runArgs(g)[2:] // without a line for every query
	args = append([]string{"run"}, args...)
	p := w.start("sealed", args...)
	old := w.keepAsking(g)
	before := old.ask()
	r := w.startLoad(g, replaceRate)
	started := time.Now()
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		p = w.next(p, args...)
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

// TestReplaceFails: a process that never gets as far as to take over changes nothing:
// one that is killed, one that is wrong, one that wants something else.
func TestReplaceFails(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g, other := w.cgroup("workload"), w.cgroup("other")
	args := w.runArgs(g)
	p := w.start("sealed", args...)
	old := w.keepAsking(g)
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
		"another prefix":        {"--config=" + filepath.Join(t.TempDir(), "prefix.toml"), "has prefix4 198.19.0.0/16"},
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

	// One that asks, is given the sockets, and dies.
	u, err := control.Replace(t.Context(), defaultControl, labTerms(g, ""))
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
	works("while another asks")
	_ = u.Close()
	w.until("it to take everything back", func() bool { return strings.Contains(p.log(), "resuming") })
	works("after one that died")
	w.until("it to listen again", func() bool {
		_, errs, status := w.sotto("reload")
		return status == 0 || !strings.Contains(errs, "no Sotto listens")
	})
	// Killed for real, once it has begun.
	killed := w.start("msg=sealed", append(args, "--replace")...)
	w.kill(killed)
	// Whether it had taken over by then is a matter of moments: one of the two goes on,
	// or the seal stays closed.
	select {
	case <-p.done:
		p = w.start("sealed", args...)
	case <-time.After(3 * time.Second):
	}
	works("after one that was killed")
	p = w.next(p, args...)
	works("after one that took over")
	w.stop(p)
	w.nothingLeft()
}

// TestReplaceNobody: without one that runs, --replace is a start like any other; also
// where one was killed.
func TestReplaceNobody(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	args := append(w.runArgs(g), "--replace")
	for range 2 {
		p := w.start("sealed", args...)
		if out := w.dig(w.host, g, "@8.8.8.8", "nobody.example"); !strings.Contains(out, sealed4) {
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

// TestReplaceKeepsAlive: a takeover that takes long is no death, where that would open
// the seal.
func TestReplaceKeepsAlive(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	p := w.start("sealed", append(w.runArgs(g), "--on-exit=open")...)
	h := w.ask(g)
	time.Sleep(openAfter + time.Second)
	if out := w.dig(w.host, g, "@8.8.8.8", "alive.example"); !strings.Contains(out, sealed4) {
		t.Errorf("while another took its time:\n%s", out)
	}
	h.close()
	w.until("it to take everything back", func() bool { return strings.Contains(p.log(), "reclaimed the seal") })
	w.stop(p)
	w.nothingLeft()
}
