// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/capture"
	"sotto/internal/control"
	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/takeover"
)

// launchBetween starts a new process for which the test is the old process: it sends the new
// one the sockets of the real old process. It returns the new process and the connection to
// it.
func (w world) launchBetween(h *successor, args []string) (*e2e.Process, *takeover.Conn) {
	w.T.Helper()
	got := make(chan *takeover.Conn, 1)
	finish := make(chan struct{})
	done := w.actAsPredecessor(func(c *takeover.Conn) error {
		err := h.send(c)
		got <- c
		<-finish
		return err
	})
	w.T.Cleanup(func() {
		close(finish)
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			w.T.Error(err)
		}
	})
	n, err := w.Launch(nil, append(args, "--replace")...)
	if err != nil {
		w.T.Fatal(err)
	}
	select {
	case c := <-got:
		return n, c
	case <-time.After(labtest.Patience(20 * time.Second)):
		w.T.Fatalf("it does not request a takeover:\n%s", n.Log())
		return nil, nil
	}
}

// TestStopNew stops the new process after it has reported that it is ready to take over, and
// before it knows whether the old one agrees.
func TestStopNew(t *testing.T) {
	setup := func(t *testing.T) (w world, g *netlab.Cgroup, p, n *e2e.Process, h *successor, c *takeover.Conn, wire *capture.Capture) {
		w = newWorld(t)
		wire = w.Watch()
		g = w.Cgroup("workload")
		p = w.Start("msg=sealed", w.RunArgs(g)...)
		h = w.requestSockets(g)
		n, c = w.launchBetween(h, w.RunArgs(g))
		if err := c.Expect(takeover.MsgTake); err != nil {
			t.Fatal(err)
		}
		w.requestStop(n)
		w.CheckSealed("during the takeover", g)
		if !n.Running() {
			t.Fatal("it did not wait for the outcome")
		}
		return w, g, p, n, h, c, wire
	}
	t.Run("refused", func(t *testing.T) {
		w, g, p, n, h, c, _ := setup(t)
		if err := c.Send(takeover.MsgRefused, nil); err != nil {
			t.Fatal(err)
		}
		<-n.Done
		if n.Cmd.ProcessState.ExitCode() != e2e.ExitFailure || !strings.Contains(n.Log(), takeover.ErrTooLate.Error()) {
			t.Errorf("status %d:\n%s", n.Cmd.ProcessState.ExitCode(), n.Log())
		}
		w.CheckSealed("after the new one has exited", g)
		h.close()
		w.WaitLog(p, "reclaimed the seal")
		w.CheckSealed("at the end", g)
		w.Until("it to listen again", func() bool {
			_, _, status := w.Sotto("reload")
			return status == 0
		})
	})
	t.Run("agreed", func(t *testing.T) {
		w, g, p, n, h, c, wire := setup(t)
		if err := h.c.Send(takeover.MsgTake, nil); err != nil {
			t.Fatal(err)
		}
		w.WaitExit(p)
		h.close()
		w.CheckSealed("answered by the new one alone", g)
		w.StopWatching(wire)
		if err := c.Send(takeover.MsgTaken, nil); err != nil {
			t.Fatal(err)
		}
		w.WaitExit(n)
		w.CheckOpen("after the stop", g)
		w.NothingLeft()
	})
}

// TestStopNewPending stops the new process while it waits for replies to queries that it has read
// from the sockets of both, for longer than a stop waits. The clients get them.
func TestStopNewPending(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	w.CheckSealed("before", g) // opens the connection of the old one
	h := w.requestSockets(g)
	opened := w.Upstream.Stats().Conns
	n, c := w.launchBetween(h, w.RunArgs(g))
	if err := c.Expect(takeover.MsgTake); err != nil {
		t.Fatal(err)
	}
	zone := w.Zone(e2e.Sealed4, e2e.Sealed6)
	var clients sync.WaitGroup
	// pend sends some queries that are answered when release is closed.
	pend := func(round int) (release chan struct{}) {
		release = make(chan struct{})
		w.Handler.Set(dnstest.Hold(release, zone))
		const queries = 4
		before := w.Upstream.Stats().Queries()
		for i := range queries {
			clients.Go(func() {
				name := fmt.Sprintf("pending%d-%d.example", round, i)
				if out := w.Dig(w.Host, g, "+timeout=20", "@8.8.8.8", name); !strings.Contains(out, e2e.Sealed4) {
					t.Errorf("%s:\n%s", name, out)
				}
			})
		}
		w.Until("the queries to be pending", func() bool { return w.Upstream.Stats().Queries() >= before+queries })
		return release
	}
	release := pend(0)
	for round := 1; !slices.ContainsFunc(w.Upstream.Log(), func(q dnstest.Logged) bool { return q.Conn > opened }); round++ {
		if close(release); round == 50 {
			t.Fatal("the new one reads no query")
		}
		clients.Wait()
		release = pend(round)
	}
	w.requestStop(n)
	if err := c.Send(takeover.MsgRefused, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond)
	close(release)
	clients.Wait()
	<-n.Done
	w.Handler.Set(zone)
	h.close()
	w.WaitLog(p, "reclaimed the seal")
	w.CheckSealed("at the end", g)
	w.Stop(p)
	w.NothingLeft()
}

// TestStopNewAnywhere stops the new process at random moments of a start that takes over.
// Before it has the seal the old one keeps or reclaims that, and no plain packet is sent.
// Later it is a stop like any other.
func TestStopNewAnywhere(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	args := w.RunArgs(g)
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	t.Logf("seed %d", seed)
	p, after := w.Start("msg=sealed", args...), 0
	for round := range 20 {
		c, err := capture.Start(w.LAN.NS, netlab.LANIf)
		if err != nil {
			t.Fatal(err)
		}
		r := w.StartLoad(g, 1000)
		control := inode(e2e.ControlSocket)
		n, err := w.Launch(nil, append(args, "--replace")...)
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		} else {
			// It listens right before it replaces the programs, which takes about this long.
			w.Until("it to listen", func() bool { is := inode(e2e.ControlSocket); return is != 0 && is != control })
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		w.Signal(n, unix.SIGTERM)
		if <-n.Done; n.Err != nil && n.Log() != "" { // unless it was killed before it handled signals
			t.Errorf("round %d: %v\n%s", round, n.Err, n.Log())
		}
		w.Until("the old one to resume or exit", func() bool {
			_, _, status := w.Sotto("reload")
			return status == 0 || !p.Running()
		})
		packets, err := c.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if !p.Running() {
			after++
			_ = r.Cmd.Process.Kill() // its sockets have lost their peer
			if w.WaitExit(p); !strings.Contains(p.Log(), "another Sotto has taken over") {
				t.Errorf("round %d: the old one exited with the new one:\n%s", round, p.Log())
			}
			w.CheckOpen("after the stop of a process that had taken over", g)
			w.NothingLeft()
			p = w.Start("msg=sealed", args...)
			continue
		}
		report, plain := r.Stop(), capture.Plain(packets)
		// The new one closes the connections that it has accepted.
		if len(plain) > 0 || report.Lost+report.Failed+report.Wrong > 0 {
			t.Errorf("round %d: %d plain packets, such as %v; %+v\n%s", round, len(plain), plain[:min(1, len(plain))], report, n.Log())
		}
		w.CheckSealed("after the new one has withdrawn", g)
	}
	t.Logf("%d of 20 stops were after the takeover", after)
	w.Stop(p)
	w.NothingLeft()
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
	stopping := fmt.Errorf("%w: it is stopping", control.ErrBusy)
	for when, want := range map[string]string{"it is stopping": stopping.Error(), "it does not listen": "instance sotto is running"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.Watch()
			g := w.Cgroup("workload")
			args := append(w.RunArgs(g), "--replace")
			inst := w.openInstance(g)
			stop := func() {}
			if want == stopping.Error() {
				stop = w.refuseAll(stopping)
			}
			n := w.StartIn(nil, "waiting for the running Sotto", args...)
			other := w.StartIn(nil, "waiting for the running Sotto", args...)
			if !strings.Contains(n.Log(), want) || strings.Contains(n.Log(), "msg=sealed") {
				t.Errorf("want %s in:\n%s", want, n.Log())
			}
			w.Stop(other)
			if strings.Contains(other.Log(), "msg=sealed") {
				t.Errorf("stopped, and it sealed:\n%s", other.Log())
			}
			stop()
			if err := inst.Abandon(); err != nil {
				t.Fatal(err)
			}
			w.WaitLog(n, "msg=sealed")
			w.CheckSealed("after the wait", g)
			w.Stop(n)
			w.NothingLeft()
		})
	}
}

// TestReplaceStopping checks that a start with --replace succeeds at any moment of the stop
// of the running process.
func TestReplaceStopping(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	args := append(w.RunArgs(g), "--replace")
	p := w.Start("msg=sealed", args...)
	for _, ms := range []int{0, 50, 200, 800} {
		// With a pending query the stop takes a second.
		release := make(chan struct{})
		zone := w.Zone(e2e.Sealed4, e2e.Sealed6)
		w.Handler.Set(dnstest.Hold(release, zone))
		before := w.Upstream.Stats().Queries()
		pending := w.Host.Command(t.Context(), g, "dig", "+tries=1", "+timeout=4", "@8.8.8.8", fmt.Sprintf("pending%d.example", ms))
		if err := pending.Start(); err != nil {
			t.Fatal(err)
		}
		w.Until("the query to be pending", func() bool { return w.Upstream.Stats().Queries() > before })
		w.Signal(p, unix.SIGTERM)
		time.Sleep(time.Duration(ms) * time.Millisecond)
		n, err := w.Launch(nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		w.WaitLog(n, "msg=sealed")
		close(release)
		w.Handler.Set(zone)
		w.WaitExit(p)
		_ = pending.Process.Kill() // its query may be lost with the stop
		_ = pending.Wait()
		w.CheckSealed("after a stop and a start", g)
		p = n
	}
	w.Stop(p)
	w.NothingLeft()
}

// refuseAll listens on the control socket and refuses all takeovers until the function that
// it returns is called.
func (w world) refuseAll(why error) (stop func()) {
	w.T.Helper()
	l, err := control.Listen(w.T.Context(), e2e.ControlSocket, 0)
	if err != nil {
		w.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.T.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, control.Handlers{Replace: func([]byte) (func(*net.UnixConn), error) { return nil, why }})
	}()
	return func() {
		w.T.Helper()
		cancel()
		if err := <-done; err != nil {
			w.T.Error(err)
		}
	}
}
