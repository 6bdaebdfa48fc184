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

// between has the test be the old process for the next that asks, with the sockets of the
// real one, as far as said goes: it returns what the new one says next, and its connection.
func (w *world) between(h *heir, args []string) (*process, *takeover.Conn) {
	w.t.Helper()
	got := make(chan *takeover.Conn, 1)
	finish := make(chan struct{})
	done := w.predecessor(func(c *takeover.Conn) error {
		err := h.give(c)
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
		w.t.Fatalf("it does not ask:\n%s", n.log())
		return nil, nil
	}
}

// TestStopNew: the new process is asked to stop when it has said that it takes over, and
// does not know yet whether it does.
func TestStopNew(t *testing.T) {
	setup := func(t *testing.T) (w *world, g *netlab.Cgroup, p, n *process, h *heir, c *takeover.Conn, wire *capture.Capture) {
		w = newWorld(t)
		wire = w.watch()
		g = w.cgroup("workload")
		p = w.start("sealed", w.runArgs(g)...)
		h = w.ask(g)
		n, c = w.between(h, w.runArgs(g))
		if err := expect(c, sayTake); err != nil {
			t.Fatal(err)
		}
		w.askToStop(n)
		w.resolves("asked to stop", g)
		if !n.runs() {
			t.Fatal("it did not wait for the outcome")
		}
		return w, g, p, n, h, c, wire
	}
	t.Run("it does not", func(t *testing.T) {
		w, g, p, n, h, c, _ := setup(t)
		if err := c.Send(sayNo, nil); err != nil {
			t.Fatal(err)
		}
		<-n.done
		if n.cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(n.log(), errGoesOn.Error()) {
			t.Errorf("status %d:\n%s", n.cmd.ProcessState.ExitCode(), n.log())
		}
		w.resolves("after the new one", g)
		h.close()
		w.says(p, "reclaimed the seal")
		w.resolves("in the end", g)
		w.until("it to listen again", func() bool {
			_, _, status := w.sotto("reload")
			return status == 0
		})
	})
	t.Run("it does", func(t *testing.T) {
		w, g, p, n, h, c, wire := setup(t)
		if err := h.c.Send(sayTake, nil); err != nil {
			t.Fatal(err)
		}
		w.ended(p)
		h.close()
		w.resolves("answered by the new one alone", g)
		w.stopWatching(wire)
		if err := c.Send(sayTaken, nil); err != nil {
			t.Fatal(err)
		}
		w.ended(n)
		w.open("after the stop", g)
		w.nothingLeft()
	})
}

// TestStopNewAnywhere: the new process is asked to stop at any moment of a start that takes
// over. Before it has the seal the old one keeps it, or gets it back, and nothing leaves;
// after, this is a stop like any other.
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
			// It listens right before it puts its programs in place, which takes about this
			// long.
			w.until("it to listen", func() bool { is := inode(defaultControl); return is != 0 && is != control })
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		w.signal(n, unix.SIGTERM)
		if <-n.done; n.err != nil && n.log() != "" { // not killed before it caught signals
			t.Errorf("round %d: %v\n%s", round, n.err, n.log())
		}
		w.until("the old one to know", func() bool {
			_, _, status := w.sotto("reload")
			return status == 0 || !p.runs()
		})
		packets, err := c.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if !p.runs() {
			after++
			_ = r.cmd.Process.Kill() // its sockets have no peer any more
			if w.ended(p); !strings.Contains(p.log(), "another Sotto has taken over") {
				t.Errorf("round %d: the old one ended with the new one:\n%s", round, p.log())
			}
			w.open("after the stop of one that had taken over", g)
			w.nothingLeft()
			p = w.start("sealed", args...)
			continue
		}
		report, plain := r.stop(), capture.Plain(packets)
		// The new one closes the connections that it has accepted by then.
		if len(plain) > 0 || report.Lost+report.Wrong > 0 {
			t.Errorf("round %d: %d packets in the clear, such as %v; %+v\n%s", round, len(plain), plain[:min(1, len(plain))], report, n.log())
		}
		w.resolves("after one that withdrew", g)
	}
	t.Logf("%d of 20 stops came after the takeover", after)
	w.stop(p)
	w.nothingLeft()
}

// inode is that of a file, or 0 if there is none.
func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// TestReplaceWaits: a process that is stopping, or cannot be asked, is waited for, and then
// the start is one like any other; unless it is stopped meanwhile.
func TestReplaceWaits(t *testing.T) {
	for when, want := range map[string]string{"it says that it is stopping": errStopping.Error(), "it cannot be asked any more": "instance sotto is running"} {
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
				t.Errorf("it was stopped:\n%s", other.log())
			}
			stop()
			if err := inst.Abandon(); err != nil {
				t.Fatal(err)
			}
			w.says(n, "msg=sealed")
			w.resolves("after the wait", g)
			w.stop(n)
			w.nothingLeft()
		})
	}
}

// TestReplaceStopping: a start that asks a process which is stopping comes up, whenever it
// asks.
func TestReplaceStopping(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	args := append(w.runArgs(g), "--replace")
	p := w.start("sealed", args...)
	for _, ms := range []int{0, 50, 200, 800} {
		// A query that is not answered has the stop take a second.
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
		w.says(n, "msg=sealed")
		close(release)
		w.handler.Set(zone)
		w.ended(p)
		_ = pending.Process.Kill() // its query may have been lost with the stop
		_ = pending.Wait()
		w.resolves("after a stop and a start", g)
		p = n
	}
	w.stop(p)
	w.nothingLeft()
}

// refuseAll answers at the control socket, and refuses to hand over, until the function
// that it returns is called.
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
