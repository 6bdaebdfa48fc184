// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/takeover"
)

// waitsForOutcome is the log message of a process that defers a stop.
const waitsForOutcome = "asked to stop: waiting for the takeover to end"

// requestStop sends p every stop signal, some more than once, and waits until it logs that it
// waits for the takeover.
func (w world) requestStop(p *e2e.Process) {
	w.T.Helper()
	w.Signal(p, unix.SIGTERM)
	w.WaitLog(p, waitsForOutcome)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGTERM} {
		w.Signal(p, s)
	}
}

// staysClosed is part of the error of a process that failed during a takeover.
const staysClosed = "the seal stays closed: 'sotto run' takes it over, 'sotto down' removes it"

// TestStopDuringTakeover stops the old process during a takeover. It answers queries until
// the outcome is known. If the new process fails, the old one reclaims the instance and then
// stops as usual. Otherwise it exits.
func TestStopDuringTakeover(t *testing.T) {
	setup := func(t *testing.T, with ...string) (world, *netlab.Cgroup, *e2e.Process, *capture.Capture) {
		w := newWorld(t)
		c := w.Watch()
		g := w.Cgroup("workload")
		return w, g, w.Start("msg=sealed", append(w.RunArgs(g), with...)...), c
	}
	t.Run("the new one exits", func(t *testing.T) {
		w, g, p, c := setup(t)
		h := w.requestSockets(g)
		w.requestStop(p)
		w.CheckSealed("during the takeover", g)
		if !p.Running() {
			t.Fatal("it did not wait for the takeover")
		}
		w.StopWatching(c)
		h.close()
		w.WaitExit(p)
		if !strings.Contains(p.Log(), "reclaimed the seal") {
			t.Error("it did not reclaim the instance")
		}
		w.CheckOpen("after the stop", g)
		w.NothingLeft()
	})
	t.Run("the new one exits, on-exit is closed", func(t *testing.T) {
		w, g, p, _ := setup(t, "--on-exit=closed")
		h := w.requestSockets(g)
		w.requestStop(p)
		h.close()
		w.WaitExit(p)
		if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "closed.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after the stop:\n%s", out)
		}
		if out, errs, status := w.Sotto("down"); status != 0 {
			t.Errorf("down: %d\n%s%s", status, out, errs)
		}
		w.NothingLeft()
	})
	t.Run("the new one hangs", func(t *testing.T) {
		w, g, p, c := setup(t)
		h := w.requestSockets(g)
		inst := w.openInstance(g)
		w.requestStop(p)
		if err := h.c.Send(takeover.MsgDone, nil); err != nil { // has the effect of a minute without a message
			t.Fatal(err)
		}
		if err := h.c.Expect(takeover.MsgRefused); err != nil {
			t.Fatal(err)
		}
		w.WaitLog(p, "the other Sotto hangs")
		w.CheckSealed("while the new one hangs", g)
		if !p.Running() {
			t.Fatal("it exited while the new one hangs")
		}
		w.StopWatching(c)
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		w.WaitExit(p)
		w.CheckOpen("after the stop", g)
		w.NothingLeft()
	})
	t.Run("it cannot reclaim the instance", func(t *testing.T) {
		w, g, p, _ := setup(t)
		h := w.requestSockets(g)
		w.requestStop(p)
		const lock = "/run/sotto/lock"
		if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
			t.Fatal(err)
		}
		h.close()
		<-p.Done
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
		if p.Cmd.ProcessState.ExitCode() != e2e.ExitFailure || !strings.Contains(p.Log(), staysClosed) {
			t.Errorf("status %d:\n%s", p.Cmd.ProcessState.ExitCode(), p.Log())
		}
		if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "closed.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after a failure:\n%s", out)
		}
		w.Stop(w.Start("msg=sealed", w.RunArgs(g)...))
		w.NothingLeft()
	})
	t.Run("the new one takes over", func(t *testing.T) {
		w, g, p, _ := setup(t)
		k := w.OpenSocket(g)
		slot := k.Ask()
		h := w.requestSocketsWith(g, `,"version":1`)
		inst := w.openInstance(g)
		w.requestStop(p)
		if err := h.c.Send(takeover.MsgTake, nil); err != nil {
			t.Fatal(err)
		}
		if err := h.c.Expect(takeover.MsgTaken); err != nil {
			t.Errorf("it does not report that it has stopped: %v", err)
		}
		w.WaitExit(p)
		if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("answered without a process:\n%s", out)
		}
		h.close()
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		n := w.Start("msg=sealed", w.RunArgs(g)...)
		if after := k.AskAfterRestart(); after != slot {
			t.Errorf("the socket's slot was %s, is %s", slot, after)
		}
		w.Stop(n)
		w.NothingLeft()
	})
}

// TestStopDuringTakeovers stops the old process at random moments of real takeovers under
// load. There is always a seal, and every query is answered.
func TestStopDuringTakeovers(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	args := w.RunArgs(g)
	p := w.Start("msg=sealed", args...)
	r := w.StartLoad(g, 2000)
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	t.Logf("seed %d", seed)
	waited := 0
	for range 15 {
		n, err := w.Launch(nil, append(args, "--replace")...)
		if err != nil {
			t.Fatal(err)
		}
		w.WaitLog(p, "asked to take over")
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		for range 1 + random.IntN(3) {
			_ = p.Cmd.Process.Signal(unix.SIGTERM) // fails if it has exited
		}
		w.WaitExit(p)
		w.WaitLog(n, "took over")
		if strings.Contains(p.Log(), waitsForOutcome) {
			waited++
		}
		p = n
	}
	if waited == 0 {
		t.Error("no stop was during a takeover")
	}
	t.Logf("%d of 15 stops waited for the outcome", waited)
	if report := r.Stop(); report.Lost+report.Reset+report.Failed+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 || report.Short == 0 {
		t.Errorf("%+v", report)
	}
	w.Stop(p)
	w.NothingLeft()
}
