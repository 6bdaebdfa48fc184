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

// waitsForOutcome is what a process logs that defers a stop.
const waitsForOutcome = "asked to stop: waiting for the takeover to end"

// stopWatching ends a capture before the seal opens for good reason. What it saw until then
// fails the test as usual.
func (w *world) stopWatching(c *capture.Capture) {
	w.t.Helper()
	if _, err := c.Stop(); err != nil {
		w.t.Error(err)
	}
}

// resolves fails the test if a query from g is not answered over TLS.
func (w *world) resolves(when string, g *netlab.Cgroup) {
	w.t.Helper()
	for _, proto := range []string{"+notcp", "+tcp"} {
		if out := w.dig(w.host, g, proto, "@8.8.8.8", "works.example"); !strings.Contains(out, sealed4) {
			w.t.Errorf("%s:\n%s", when, out)
		}
	}
}

// open fails the test if the seal is not.
func (w *world) open(when string, g *netlab.Cgroup) {
	w.t.Helper()
	if out := w.dig(w.host, g, "@8.8.8.8", "open.example"); !strings.Contains(out, plain4) {
		w.t.Errorf("%s the seal is not open:\n%s", when, out)
	}
}

// askToStop sends p every signal that asks for a stop, more than once, and waits until it
// says that it waits for the takeover.
func (w *world) askToStop(p *process) {
	w.t.Helper()
	w.signal(p, unix.SIGTERM)
	w.says(p, waitsForOutcome)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGTERM} {
		w.signal(p, s)
	}
}

// TestStopDuringTakeover: the old process is asked to stop while another takes over. It
// answers until the outcome is known: if the other one fails it takes everything back, and
// stops then as it would have; else it has nothing to stop.
func TestStopDuringTakeover(t *testing.T) {
	setup := func(t *testing.T, with ...string) (*world, *netlab.Cgroup, *process, *capture.Capture) {
		w := newWorld(t)
		c := w.watch()
		g := w.cgroup("workload")
		return w, g, w.start("sealed", append(w.runArgs(g), with...)...), c
	}
	t.Run("the new one dies", func(t *testing.T) {
		w, g, p, c := setup(t)
		h := w.ask(g)
		w.askToStop(p)
		w.resolves("asked to stop", g)
		if !p.runs() {
			t.Fatal("it did not wait for the takeover")
		}
		w.stopWatching(c)
		h.close()
		w.ended(p)
		if !strings.Contains(p.log(), "reclaimed the seal") {
			t.Error("it did not take everything back")
		}
		w.open("after the stop", g)
		w.nothingLeft()
	})
	t.Run("the new one dies, and the seal is to stay closed", func(t *testing.T) {
		w, g, p, _ := setup(t, "--on-exit=closed")
		h := w.ask(g)
		w.askToStop(p)
		h.close()
		w.ended(p)
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
		h := w.ask(g)
		inst := w.openInstance(g)
		w.askToStop(p)
		if err := h.c.Send(sayDone, nil); err != nil { // as a minute without a word
			t.Fatal(err)
		}
		if err := expect(h.c, sayNo); err != nil {
			t.Fatal(err)
		}
		w.says(p, "the other Sotto hangs")
		w.resolves("while the new one hangs", g)
		if !p.runs() {
			t.Fatal("it left the seal to one that hangs")
		}
		w.stopWatching(c)
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		w.ended(p)
		w.open("after the stop", g)
		w.nothingLeft()
	})
	t.Run("it cannot take everything back", func(t *testing.T) {
		w, g, p, _ := setup(t)
		h := w.ask(g)
		w.askToStop(p)
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
		k := w.keepAsking(g)
		slot := k.ask()
		h := w.askWith(g, `,"version":1`)
		inst := w.openInstance(g)
		w.askToStop(p)
		if err := h.c.Send(sayTake, nil); err != nil {
			t.Fatal(err)
		}
		if err := expect(h.c, sayTaken); err != nil {
			t.Errorf("it does not say that it has stopped: %v", err)
		}
		w.ended(p)
		if out := w.dig(w.host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
			t.Errorf("without a Sotto that answers:\n%s", out)
		}
		h.close()
		if err := inst.Abandon(); err != nil {
			t.Fatal(err)
		}
		n := w.start("msg=sealed", w.runArgs(g)...)
		if after := k.askPast(); after != slot {
			t.Errorf("the socket's slot was %s, is %s", slot, after)
		}
		w.stop(n)
		w.nothingLeft()
	})
}

// TestStopDuringTakeovers: the old process is asked to stop at any moment of real takeovers
// under load: there is no moment without a seal, or without an answer.
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
		w.says(p, "asked to take over")
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		for range 1 + random.IntN(3) {
			_ = p.cmd.Process.Signal(unix.SIGTERM) // it may have exited
		}
		w.ended(p)
		w.says(n, "took over")
		if strings.Contains(p.log(), waitsForOutcome) {
			waited++
		}
		p = n
	}
	if waited == 0 {
		t.Error("no stop came during a takeover")
	}
	t.Logf("%d of 15 stops waited for the outcome", waited)
	if report := r.stop(); report.Lost+report.Reset+report.Wrong > 0 || report.UDP == 0 || report.TCP == 0 || report.Short == 0 {
		t.Errorf("%+v", report)
	}
	w.stop(p)
	w.nothingLeft()
}
