// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/internal/control"
	"sotto/internal/e2e"
	"sotto/internal/takeover"
)

// replaceRate is the number of queries per second on a usual machine.
const replaceRate = 5000

// TestReplaceUnderLoad makes ten takeovers under load. Clients of every kind notice none of
// them: no query is lost and no connection is closed, a socket from before the first
// takeover still resolves, and slots keep their numbers.
func TestReplaceUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	args := w.RunArgs(g)
	p := w.Start("msg=sealed", args...)
	old := w.OpenSocket(g)
	before := old.Ask()
	r := w.StartLoad(g, replaceRate)
	started := time.Now()
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		p = w.Replace(p, args...)
		if after := old.Ask(); after != before {
			t.Errorf("the socket's slot was %s, is %s", before, after)
		}
	}
	report := r.Stop()
	if report.Lost+report.Reset+report.Failed+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 || report.Short == 0 {
		t.Errorf("%+v", report)
	}
	t.Logf("%+v in %s", report, time.Since(started).Round(time.Millisecond))
	w.Stop(p)
	w.NothingLeft()
}

// TestReplaceFails checks that a process that fails before the takeover changes nothing: one
// that is killed, one with a wrong configuration, one with other terms.
func TestReplaceFails(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g, other := w.Cgroup("workload"), w.Cgroup("other")
	args := w.RunArgs(g)
	p := w.Start("msg=sealed", args...)
	old := w.OpenSocket(g)
	before := old.Ask()
	works := func(when string) {
		t.Helper()
		if after := old.Ask(); after != before {
			t.Errorf("%s: the socket's slot was %s, is %s", when, before, after)
		}
		if out := w.Dig(w.Host, g, "+tcp", "@1.1.1.1", "after.example"); !strings.Contains(out, e2e.Sealed4) {
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
			e2e.WriteFile(t, file, map[string]string{"prefix.toml": "prefix4 = \"198.19.4.0/24\"\n", "port.toml": "ports = [0]\n"}[filepath.Base(file)])
		}
		_, errs, status := w.Sotto(append(args, "--replace", tc.with)...)
		if status == 0 || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: status %d, %s", what, status, errs)
		}
		works(what)
	}
	if _, errs, status := w.Sotto(append(w.RunArgs(other), "--replace")...); status != e2e.ExitFailure || !strings.Contains(errs, "the new one does not") {
		t.Errorf("another cgroup: status %d, %s", status, errs)
	}
	works("another cgroup")

	// A process that receives the sockets and exits.
	u, err := control.Replace(t.Context(), e2e.ControlSocket, runTerms(g, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte{takeover.MsgReady, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if n, _, _, _, err := u.ReadMsgUnix(buf, nil); err != nil || n == 0 || buf[0] != takeover.MsgSockets {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	works("during the takeover")
	_ = u.Close()
	w.Until("the instance to be reclaimed", func() bool { return strings.Contains(p.Log(), "resuming") })
	works("after the failed takeover")
	w.Until("it to listen again", func() bool {
		_, errs, status := w.Sotto("reload")
		return status == 0 || !strings.Contains(errs, "no Sotto listens")
	})
	// A real process, killed during the takeover.
	killed := w.Start("msg=sealed", append(args, "--replace")...)
	w.Kill(killed)
	// It may have taken over by then. Either way one of the two runs, or the seal stays
	// closed.
	select {
	case <-p.Done:
		p = w.Start("msg=sealed", args...)
	case <-time.After(3 * time.Second):
	}
	works("after a killed successor")
	p = w.Replace(p, args...)
	works("after a takeover")
	w.Stop(p)
	w.NothingLeft()
}

// TestReplaceWithoutPredecessor checks that --replace starts normally if no process runs,
// also after one was killed.
func TestReplaceWithoutPredecessor(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	args := append(w.RunArgs(g), "--replace")
	for range 2 {
		p := w.Start("msg=sealed", args...)
		if out := w.Dig(w.Host, g, "@8.8.8.8", "first.example"); !strings.Contains(out, e2e.Sealed4) {
			t.Error(out)
		}
		w.Kill(p)
	}
	w.Stop(w.Start("msg=sealed", args...))
	p := w.Start("msg=sealed", append(args, "--control=off")...)
	if _, errs, status := w.Sotto(append(args, "--control=off")...); status != e2e.ExitFailure || !strings.Contains(errs, "stop it first") || !strings.Contains(errs, "control socket") {
		t.Errorf("without a control socket: status %d, %s", status, errs)
	}
	w.Stop(p)
	w.NothingLeft()
}

// openAfter is the time after which --on-exit=open opens the seal of a killed process.
const openAfter = 3 * time.Second

// TestReplaceKeepsAlive checks that with --on-exit=open a slow takeover does not open the
// seal.
func TestReplaceKeepsAlive(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--on-exit=open")...)
	h := w.requestSockets(g)
	time.Sleep(openAfter + time.Second)
	if out := w.Dig(w.Host, g, "@8.8.8.8", "alive.example"); !strings.Contains(out, e2e.Sealed4) {
		t.Errorf("during a slow takeover:\n%s", out)
	}
	h.close()
	w.Until("the instance to be reclaimed", func() bool { return strings.Contains(p.Log(), "reclaimed the seal") })
	w.Stop(p)
	w.NothingLeft()
}
