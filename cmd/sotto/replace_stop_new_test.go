// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/control"
	"sotto/internal/dnstest"
	"sotto/internal/netlab"
	"sotto/internal/takeover"
)

// launchBetween starts a new process for which the test is the old process: it sends the new
// one the sockets of the real old process. It returns the new process and the connection to
// it.
func (w *world) launchBetween(h *successor, args []string) (*process, *takeover.Conn) {
	w.t.Helper()
	got := make(chan *takeover.Conn, 1)
	finish := make(chan struct{})
	done := w.actAsPredecessor(func(c *takeover.Conn) error {
		err := h.send(c)
		got <- c
		<-finish
		return err
	})
	w.t.Cleanup(func() {
		close(finish)
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			w.t.Error(err)
		}
	})
	n, err := w.launch(nil, append(args, "--replace")...)
	if err != nil {
		w.t.Fatal(err)
	}
	select {
	case c := <-got:
		return n, c
	case <-time.After(20 * time.Second):
		w.t.Fatalf("it does not request a takeover:\n%s", n.log())
		return nil, nil
	}
}

// TestStopNew stops the new process after it has reported that it is ready to take over, and
// before it knows whether the old one agrees.
func TestStopNew(t *testing.T) {
	setup := func(t *testing.T) (w *world, g *netlab.Cgroup, p, n *process, h *successor, c *takeover.Conn, wire *capture.Capture) {
		w = newWorld(t)
		wire = w.watch()
		g = w.cgroup("workload")
		p = w.start("sealed", w.runArgs(g)...)
		h = w.requestSockets(g)
		n, c = w.launchBetween(h, w.runArgs(g))
		if err := expect(c, sayTake); err != nil {
			t.Fatal(err)
		}
		w.requestStop(n)
		w.checkSealed("during the takeover", g)
		if !n.running() {
			t.Fatal("it did not wait for the outcome")
		}
		return w, g, p, n, h, c, wire
	}
	t.Run("refused", func(t *testing.T) {
		w, g, p, n, h, c, _ := setup(t)
		if err := c.Send(sayNo, nil); err != nil {
			t.Fatal(err)
		}
		<-n.done
		if n.cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(n.log(), errGoesOn.Error()) {
			t.Errorf("status %d:\n%s", n.cmd.ProcessState.ExitCode(), n.log())
		}
		w.checkSealed("after the new one has exited", g)
		h.close()
		w.waitLog(p, "reclaimed the seal")
		w.checkSealed("at the end", g)
		w.until("it to listen again", func() bool {
			_, _, status := w.sotto("reload")
			return status == 0
		})
	})
	t.Run("agreed", func(t *testing.T) {
		w, g, p, n, h, c, wire := setup(t)
		if err := h.c.Send(sayTake, nil); err != nil {
			t.Fatal(err)
		}
		w.waitExit(p)
		h.close()
		w.checkSealed("answered by the new one alone", g)
		w.stopWatching(wire)
		if err := c.Send(sayTaken, nil); err != nil {
			t.Fatal(err)
		}
		w.waitExit(n)
		w.checkOpen("after the stop", g)
		w.nothingLeft()
	})
}

// TestStopNewAnywhere stops the new process at random moments of a start that takes over.
// Before it has the seal the old one keeps or reclaims that, and no plain packet is sent.
// Later it is a stop like any other.
func TestStopNewAnywhere(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	args := append([]string{"run"}, w.runArgs(g)[2:]...)
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	t.Logf("seed %d", seed)
	p, after := w.start("sealed", args...), 0
	for round := range 20 {
		c, err := capture.Start(w.lan.NS, netlab.LANIf)
		if err != nil {
			t.Fatal(err)
		}
		r := w.startLoad(g, 1000)
		control := inode(defaultControl)
		n, err := w.launch(nil, append(args, "--replace")...)
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		} else {
			// It listens right before it replaces the programs, which takes about this long.
			w.until("it to listen", func() bool { is := inode(defaultControl); return is != 0 && is != control })
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		w.signal(n, unix.SIGTERM)
		if <-n.done; n.err != nil && n.log() != "" { // unless it was killed before it handled signals
			t.Errorf("round %d: %v\n%s", round, n.err, n.log())
		}
		w.until("the old one to resume or exit", func() bool {
			_, _, status := w.sotto("reload")
			return status == 0 || !p.running()
		})
		packets, err := c.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if !p.running() {
			after++
			_ = r.cmd.Process.Kill() // its sockets have lost their peer
			if w.waitExit(p); !strings.Contains(p.log(), "another Sotto has taken over") {
				t.Errorf("round %d: the old one exited with the new one:\n%s", round, p.log())
			}
			w.checkOpen("after the stop of a process that had taken over", g)
			w.nothingLeft()
			p = w.start("sealed", args...)
			continue
		}
		report, plain := r.stop(), capture.Plain(packets)
		// The new one closes the connections that it has accepted.
		if len(plain) > 0 || report.Lost+report.Wrong > 0 {
			t.Errorf("round %d: %d plain packets, such as %v; %+v\n%s", round, len(plain), plain[:min(1, len(plain))], report, n.log())
		}
		w.checkSealed("after the new one has withdrawn", g)
	}
	t.Logf("%d of 20 stops were after the takeover", after)
	w.stop(p)
	w.nothingLeft()
}

// inode returns the inode number of a file, or 0 if it does not exist.
func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// TestReplaceWaits checks that a start with --replace waits for a process that is stopping or
// does not listen, and then starts normally, unless it is stopped meanwhile.
func TestReplaceWaits(t *testing.T) {
	for when, want := range map[string]string{"it is stopping": errStopping.Error(), "it does not listen": "instance sotto is running"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.watch()
			g := w.cgroup("workload")
			args := append(w.runArgs(g), "--replace")
			inst := w.openInstance(g)
			stop := func() {}
			if want == errStopping.Error() {
				stop = w.refuseAll(fmt.Errorf("%w: it is stopping", control.ErrBusy))
			}
			n := w.startIn(nil, "waiting for the running Sotto", args...)
			other := w.startIn(nil, "waiting for the running Sotto", args...)
			if !strings.Contains(n.log(), want) || strings.Contains(n.log(), "msg=sealed") {
				t.Errorf("want %s in:\n%s", want, n.log())
			}
			w.stop(other)
			if strings.Contains(other.log(), "msg=sealed") {
				t.Errorf("stopped, and it sealed:\n%s", other.log())
			}
			stop()
			if err := inst.Abandon(); err != nil {
				t.Fatal(err)
			}
			w.waitLog(n, "msg=sealed")
			w.checkSealed("after the wait", g)
			w.stop(n)
			w.nothingLeft()
		})
	}
}

// TestReplaceStopping checks that a start with --replace succeeds at any moment of the stop
// of the running process.
func TestReplaceStopping(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	args := append(w.runArgs(g), "--replace")
	p := w.start("sealed", args...)
	for _, ms := range []int{0, 50, 200, 800} {
		// With a pending query the stop takes a second.
		release := make(chan struct{})
		zone := w.zone(sealed4, sealed6)
		w.handler.Set(dnstest.Hold(release, zone))
		before := w.upstream.Stats().Queries()
		pending := w.host.Command(t.Context(), g, "dig", "+tries=1", "+timeout=4", "@8.8.8.8", fmt.Sprintf("pending%d.example", ms))
		if err := pending.Start(); err != nil {
			t.Fatal(err)
		}
		w.until("the query to be pending", func() bool { return w.upstream.Stats().Queries() > before })
		w.signal(p, unix.SIGTERM)
		time.Sleep(time.Duration(ms) * time.Millisecond)
		n, err := w.launch(nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		w.waitLog(n, "msg=sealed")
		close(release)
		w.handler.Set(zone)
		w.waitExit(p)
		_ = pending.Process.Kill() // its query may be lost with the stop
		_ = pending.Wait()
		w.checkSealed("after a stop and a start", g)
		p = n
	}
	w.stop(p)
	w.nothingLeft()
}

// refuseAll listens on the control socket and refuses all takeovers until the function that
// it returns is called.
func (w *world) refuseAll(why error) (stop func()) {
	w.t.Helper()
	l, err := control.Listen(w.t.Context(), defaultControl)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, control.Handlers{Replace: func([]byte) (func(*net.UnixConn), error) { return nil, why }})
	}()
	return func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}
