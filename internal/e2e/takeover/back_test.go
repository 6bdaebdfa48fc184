// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// supervised is a sotto that is restarted when it exits with status 0, as kubelet does. It is
// not restarted after a failure; a supervisor would only back off longer.
type supervised struct {
	w    world
	done chan struct{} // closed when it is no longer restarted

	mu      sync.Mutex
	all     []*e2e.Process
	stopped bool
}

func (w world) supervise(g *netlab.Cgroup, args ...string) *supervised {
	s := &supervised{w: w, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for p := s.restart(g, args); p != nil; p = s.restart(g, args) {
			if <-p.Done; p.Err != nil {
				return
			}
		}
	}()
	w.T.Cleanup(s.stop)
	return s
}

// restart starts the next process. It returns nil after stop.
func (s *supervised) restart(g *netlab.Cgroup, args []string) *e2e.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	p, err := s.w.Launch(g, args...)
	if err != nil {
		s.w.T.Error(err)
		return nil
	}
	s.all = append(s.all, p)
	return p
}

// stop stops the process and its supervisor.
func (s *supervised) stop() {
	s.mu.Lock()
	s.stopped = true
	if len(s.all) > 0 {
		_ = s.all[len(s.all)-1].Cmd.Process.Signal(unix.SIGTERM) // fails if it has exited
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(labtest.Patience(20 * time.Second)):
		s.w.T.Error("sotto did not exit within 20 s")
	}
}

// logged reports whether one of its processes has printed text.
func (s *supervised) logged(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, func(p *e2e.Process) bool { return strings.Contains(p.Log(), text) })
}

// latest returns its latest process.
func (s *supervised) latest() *e2e.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[len(s.all)-1]
}

// TestRollingUpdate starts a new Sotto beside the old one, as a rolling update does, and
// stops the old one when the new one is ready. Until then a supervisor restarts the old one
// whenever it exits. The new one keeps the seal.
func TestRollingUpdate(t *testing.T) {
	for how, out := range map[string]string{"exit": "has replaced the Sotto in the cgroup", "wait": "waiting to be stopped"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			w.Watch()
			g := w.Cgroup("workload")
			args := append(w.RunArgs(g), "--replace", "--when-replaced="+how)
			before := w.supervise(w.Cgroup("a"), args...)
			w.Until("the old one to seal", func() bool { return before.logged("msg=sealed") })
			r := w.StartLoad(g, 500)
			after := w.supervise(w.Cgroup("b"), args...)
			w.Until("the new one to take over", func() bool { return after.logged("took over") })
			// The old one is soon refused, or waits. The update does not check that and stops it.
			for end := time.Now().Add(labtest.Patience(5 * time.Second)); !before.logged(out) && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			if how == "wait" && !before.latest().Running() {
				t.Error("the old one did not wait to be stopped")
			}
			before.stop()
			if out := w.Dig(w.Host, g, "@8.8.8.8", "after.example"); !strings.Contains(out, e2e.Sealed4) {
				t.Errorf("after the update:\n%s", out)
			}
			if report := r.Stop(); report.Lost+report.Reset+report.Failed+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 {
				t.Errorf("%+v", report)
			}
			after.stop() // on-exit = "strict": this opens the seal
			if last := after.latest(); last.Err != nil || len(after.all) != 1 {
				t.Errorf("the new one was started %d times, and exited with %v", len(after.all), last.Err)
			}
			if last := before.latest(); how == "wait" && (last.Err != nil || len(before.all) != 1) {
				t.Errorf("the old one was started %d times, and exited with %v", len(before.all), last.Err)
			}
			w.NothingLeft()
		})
	}
}

// TestReplaceBack checks that a replaced process cannot take over from its successors without
// --replace=back, that other processes can, and so can those of the same cgroup.
func TestReplaceBack(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	groups := map[string]*netlab.Cgroup{"a": w.Cgroup("a"), "b": w.Cgroup("b"), "c": w.Cgroup("c")}
	args := append(w.RunArgs(g), "--replace")
	p := w.StartIn(groups["a"], "msg=sealed", args...)
	k := w.OpenSocket(g)
	slot := k.Ask()
	takes := func(from string, with ...string) {
		t.Helper()
		n := w.StartIn(groups[from], "took over", append(args, with...)...)
		w.WaitExit(p)
		p = n
	}
	refused := func(from string) {
		t.Helper()
		n, err := w.Launch(groups[from], args...)
		if err != nil {
			t.Fatal(err)
		}
		w.Until("the refusal", func() bool {
			if strings.Contains(n.Log(), "took over") {
				t.Fatalf("%s took over from its successor", from)
			}
			return !n.Running()
		})
		for _, want := range []string{fmt.Sprintf("process %d has replaced", p.Cmd.Process.Pid), groups[from].Path[len(cgroupRoot(t)):], "--replace=back"} {
			if n.Cmd.ProcessState.ExitCode() != e2e.ExitFailure || !strings.Contains(n.Log(), want) {
				t.Errorf("%s: status %d, want %q in\n%s", from, n.Cmd.ProcessState.ExitCode(), want, n.Log())
			}
		}
		if after := k.Ask(); after != slot || !p.Running() {
			t.Errorf("after %s the socket's slot is %s, was %s; the running process runs: %v", from, after, slot, p.Running())
		}
	}
	takes("b")
	refused("a")
	takes("c")
	refused("a")
	refused("b")
	takes("c") // for example started by hand
	refused("b")
	takes("a", "--replace=back")
	refused("c")
	refused("b")
	takes("a")
	// Processes of earlier versions have no identity.
	h := w.requestSocketsWith(g, `,"version":1`)
	if want := []string{"b", "c", "a"}; len(h.replaced) != 3 || !slices.EqualFunc(h.replaced, want, func(id, name string) bool {
		return id == groups[name].Path[len(cgroupRoot(t)):]
	}) {
		t.Errorf("its identity and those of its predecessors are %v, want those of %v", h.replaced, want)
	}
	h.close()
	w.WaitLog(p, "reclaimed the seal")
	// If no process runs, none is refused.
	w.Kill(p)
	p = w.StartIn(groups["b"], "msg=sealed", args...)
	k.AskAfterRestart()
	w.Stop(p)
	w.NothingLeft()
}

func cgroupRoot(t *testing.T) string {
	t.Helper()
	root, err := netlab.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}
