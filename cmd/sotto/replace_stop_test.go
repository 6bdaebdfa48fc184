// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/netlab"
)

// waitsForOutcome is the log message of a process that defers a stop.
const waitsForOutcome = "asked to stop: waiting for the takeover to end"

// stopWatching stops a capture before the seal is opened on purpose. Plain packets until then
// fail the test as usual.
func (w *world) stopWatching(c *capture.Capture) {
	w.t.Helper()
	if _, err := c.Stop(); err != nil {
		w.t.Error(err)
	}
}

// checkSealed fails the test if queries from g are not answered by the TLS upstream.
func (w *world) checkSealed(when string, g *netlab.Cgroup) {
	w.t.Helper()
	for _, proto := range []string{"+notcp", "+tcp"} {
		if out := w.dig(w.host, g, proto, "@8.8.8.8", "works.example"); !strings.Contains(out, sealed4) {
			w.t.Errorf("%s:\n%s", when, out)
		}
	}
}

// checkOpen fails the test if queries from g are not sent in plain DNS.
func (w *world) checkOpen(when string, g *netlab.Cgroup) {
	w.t.Helper()
	if out := w.dig(w.host, g, "@8.8.8.8", "open.example"); !strings.Contains(out, plain4) {
		w.t.Errorf("%s the seal is not open:\n%s", when, out)
	}
}

// requestStop sends p every stop signal, some more than once, and waits until it logs that it
// waits for the takeover.
func (w *world) requestStop(p *process) {
	w.t.Helper()
	w.signal(p, unix.SIGTERM)
	w.waitLog(p, waitsForOutcome)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGTERM} {
		w.signal(p, s)
	}
}

// TestStopDuringTakeover stops the old process during a takeover. It answers queries until
// the outcome is known. If the new process fails, the old one reclaims the instance and then
// stops as usual. Otherwise it exits.
func TestStopDuringTakeover(t *testing.T) {
	setup := func(t *testing.T, with ...string) (*world, *netlab.Cgroup, *process, *capture.Capture) {
		w := newWorld(t)
		c := w.watch()
		g := w.cgroup("workload")
		return w, g, w.start("sealed", append(w.runArgs(g), with...)...), c
	}
	t.Run("the new one exits", func(t *testing.T) {
		w, g, p, c := setup(t)
		h := w.requestSockets(g)
		w.requestStop(p)
		w.checkSealed("during the takeover", g)
		if !p.running() {
			t.Fatal("it did not wait for the takeover")
		}
		w.stopWatching(c)
		h.close()
		w.waitExit(p)
		if !strings.Contains(p.log(), "reclaimed the seal") {
			t.Error("it did not reclaim the instance")
		}
		w.checkOpen("after the stop", g)
		w.nothingLeft()
	})
	t.Run("the new one exits, on-exit is closed", func(t *testing.T) {
		w, g, p, _ := setup(t, "--on-exit=closed")
		h := w.requestSockets(g)
		w.requestStop(p)
		h.close()
		w.waitExit(p)
		if out := w.dig(w.host, g, "+timeout=1", "@8.8.8.8", "closed.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after the stop:\n%s", out)
		}
		if out, errs, status := w.sotto("down"); status != 0 {
			t.Errorf("down: %d\n%s%s", status, out, errs)
		}
		w.nothingLeft()
	})
	t.Run("the new one hangs", func(t *testing.T) {
		w, g, p, c := setup(t)
		h := w.requestSockets(g)
		inst := w.openInstance(g)
		w.requestStop(p)
		if err := h.c.Send(sayDone, nil); err != nil { // has the effect of a minute without a message
			t.Fatal(err)
		}
		if err := expect(h.c, sayNo); err != nil {
			t.Fatal(err)
		}
		w.waitLog(p, "the Sotto that asked hangs")
		w.checkSealed("while the new one hangs", g)
		if !p.running() {
			t.Fatal("it exited while the new one hangs")
		}
		w.stopWatching(c)
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		w.waitExit(p)
		w.checkOpen("after the stop", g)
		w.nothingLeft()
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
		<-p.done
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
		if p.cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(p.log(), staysClosed) {
			t.Errorf("status %d:\n%s", p.cmd.ProcessState.ExitCode(), p.log())
		}
		if out := w.dig(w.host, g, "+timeout=1", "@8.8.8.8", "closed.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("after a failure:\n%s", out)
		}
		w.stop(w.start("sealed", w.runArgs(g)...))
		w.nothingLeft()
	})
	t.Run("the new one takes over", func(t *testing.T) {
		w, g, p, _ := setup(t)
		k := w.openSocket(g)
		slot := k.ask()
		h := w.requestSocketsWith(g, `,"version":1`)
		inst := w.openInstance(g)
		w.requestStop(p)
		if err := h.c.Send(sayTake, nil); err != nil {
			t.Fatal(err)
		}
		if err := expect(h.c, sayTaken); err != nil {
			t.Errorf("it does not report that it has stopped: %v", err)
		}
		w.waitExit(p)
		if out := w.dig(w.host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("answered without a process:\n%s", out)
		}
		h.close()
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		n := w.start("msg=sealed", w.runArgs(g)...)
		if after := k.askAfterRestart(); after != slot {
			t.Errorf("the socket's slot was %s, is %s", slot, after)
		}
		w.stop(n)
		w.nothingLeft()
	})
}

// TestStopDuringTakeovers stops the old process at random moments of real takeovers under
// load. There is always a seal, and every query is answered.
func TestStopDuringTakeovers(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	args := append([]string{"run"}, w.runArgs(g)[2:]...)
	p := w.start("sealed", args...)
	r := w.startLoad(g, 2000)
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	t.Logf("seed %d", seed)
	waited := 0
	for range 15 {
		n, err := w.launch(nil, append(args, "--replace")...)
		if err != nil {
			t.Fatal(err)
		}
		w.waitLog(p, "asked to take over")
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		for range 1 + random.IntN(3) {
			_ = p.cmd.Process.Signal(unix.SIGTERM) // fails if it has exited
		}
		w.waitExit(p)
		w.waitLog(n, "took over")
		if strings.Contains(p.log(), waitsForOutcome) {
			waited++
		}
		p = n
	}
	if waited == 0 {
		t.Error("no stop was during a takeover")
	}
	t.Logf("%d of 15 stops waited for the outcome", waited)
	if report := r.stop(); report.Lost+report.Reset+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 || report.Short == 0 {
		t.Errorf("%+v", report)
	}
	w.stop(p)
	w.nothingLeft()
}
