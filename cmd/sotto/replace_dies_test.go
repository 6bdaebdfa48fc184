// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"sotto/intercept"
	"sotto/internal/control"
	"sotto/internal/netlab"
	"sotto/internal/takeover"
)

// heir is the test in the place of a process that takes over.
type heir struct {
	c     *takeover.Conn
	udp   int
	files []*os.File

	replaced []string
}

// ask has the Sotto of w, which seals g, hand over to the test, as far as its sockets. The
// terms are those of a process from before there were identities.
func (w *world) ask(g *netlab.Cgroup) *heir {
	w.t.Helper()
	return w.askWith(g, "")
}

// askWith is ask with more terms. With a version among them the old process says first
// whom it has replaced.
func (w *world) askWith(g *netlab.Cgroup, more string) *heir {
	w.t.Helper()
	u, err := control.Replace(w.t.Context(), defaultControl, labTerms(g, more))
	if err != nil {
		w.t.Fatal(err)
	}
	h := &heir{c: takeover.NewConn(u)}
	w.t.Cleanup(h.close)
	if err := h.c.Send(sayReady, nil); err != nil {
		w.t.Fatal(err)
	}
	kind, data, files, err := h.c.Receive()
	if err == nil && kind == sayReplaced && more != "" {
		if h.replaced, err = decodeReplaced(data); err == nil {
			kind, data, files, err = h.c.Receive()
		}
	}
	if err != nil || kind != saySockets || len(data) != 1 {
		w.t.Fatalf("got %q with %d bytes, %v", kind, len(data), err)
	}
	h.udp, h.files = int(data[0]), files
	return h
}

// labTerms are those of a `run` that seals g.
func labTerms(g *netlab.Cgroup, more string) []byte {
	return []byte(`{"prefix4":"198.19.0.0/16","prefix6":"fd73:6f74:746f::/64","cgroups":["` + g.Path + `"]` + more + `}`)
}

func (h *heir) close() {
	_ = h.c.Close()
	for _, f := range h.files {
		_ = f.Close() // perhaps again
	}
}

// give hands the sockets on, as the one that they came from would.
func (h *heir) give(c *takeover.Conn) error {
	if err := expect(c, sayReady); err != nil {
		return err
	}
	var fds []int
	for _, f := range h.files {
		fds = append(fds, int(f.Fd()))
	}
	return c.Send(saySockets, []byte{byte(h.udp)}, fds...)
}

// predecessor answers the next one who asks at the control socket, and has then talk to
// him. The error comes from talk.
func (w *world) predecessor(talk func(*takeover.Conn) error) <-chan error {
	w.t.Helper()
	l, err := control.Listen(w.t.Context(), defaultControl)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() {
		var next *takeover.Conn
		err := l.Serve(ctx, control.Handlers{
			Reload: func(context.Context) error { return nil },
			Replace: func([]byte) (func(*net.UnixConn), error) {
				return func(c *net.UnixConn) { next = takeover.NewConn(c); stop() }, nil
			},
		})
		stop()
		if next == nil {
			done <- errors.Join(errors.New("nobody asked"), err)
			return
		}
		done <- errors.Join(err, talk(next), next.Close())
	}()
	return done
}

// TestReplaceOldDies: the process that was asked to hand over dies, before it gave its
// sockets and after. The new one just goes on: slots and sockets are as they were.
func TestReplaceOldDies(t *testing.T) {
	for when, given := range map[string]bool{"before the sockets": false, "after the sockets": true} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.watch()
			g := w.cgroup("workload")
			args := w.runArgs(g)
			p := w.start("sealed", args...)
			k := w.keepAsking(g)
			before := k.ask()
			h := w.ask(g)
			w.kill(p)
			if !given {
				h.close()
			}
			done := w.predecessor(func(c *takeover.Conn) error {
				if !given {
					return nil
				}
				return h.give(c)
			})
			n := w.start("msg=sealed", append(args, "--replace")...)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			h.close()
			w.until("it to notice", func() bool { return strings.Contains(n.log(), "level=WARN") })
			if after := k.askPast(); after != before {
				t.Errorf("the socket's slot was %s, is %s", before, after)
			}
			if out := w.dig(w.host, g, "+tcp", "@1.1.1.1", "after.example"); !strings.Contains(out, sealed4) {
				t.Error(out)
			}
			w.stop(w.next(n, args...))
			w.nothingLeft()
		})
	}
}

// openInstance opens and attaches the instance of `run` in the test, as a process does
// that takes over g.
func (w *world) openInstance(g *netlab.Cgroup) *intercept.Instance {
	w.t.Helper()
	var inst *intercept.Instance
	err := w.host.Do(func() (err error) {
		inst, err = intercept.Open(w.t.Context(), intercept.Config{Name: runName, Cgroups: []string{g.Path}})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = inst.Abandon() }) // perhaps again
	if err := inst.Attach(); err != nil {
		w.t.Fatal(err)
	}
	return inst
}

// TestReplaceNewHangs: the process that asked opens the instance, and then neither goes
// on nor ends. The old one answers until it is gone, and only then takes everything back.
func TestReplaceNewHangs(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	args := w.runArgs(g)
	p := w.start("sealed", args...)
	k := w.keepAsking(g)
	before := k.ask()
	h := w.ask(g)
	inst := w.openInstance(g)
	name, err := net.ListenUnix("unix", &net.UnixAddr{Name: defaultControl, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer name.Close()
	// For the old one this is what a minute without a word is.
	if err := h.c.Send(sayDone, nil); err != nil {
		t.Fatal(err)
	}
	if err := expect(h.c, sayNo); err != nil {
		t.Fatalf("it does not say that it goes on: %v", err)
	}
	h.close()
	w.says(p, "the other Sotto hangs")
	if after := k.ask(); after != before {
		t.Errorf("the socket's slot was %s, is %s", before, after)
	}
	if err := inst.Abandon(); err != nil {
		t.Fatal(err)
	}
	w.says(p, "reclaimed the seal")
	// The name of the control socket is free later than the lock: it finds it in use, by a
	// connection that is accepted, and has to look again.
	if err := name.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	looked, err := name.Accept()
	if err != nil {
		t.Fatalf("it does not look for the name of its control socket: %v", err)
	}
	_ = looked.Close()
	if err := name.Close(); err != nil {
		t.Fatal(err)
	}
	w.until("it to listen again", func() bool {
		_, _, status := w.sotto("reload")
		return status == 0
	})
	if after := k.ask(); after != before {
		t.Errorf("the socket's slot was %s, is %s", before, after)
	}
	w.stop(w.next(p, args...))
	w.nothingLeft()
}

// TestReplaceTooLate: who is told that the old one goes on ends, and changes nothing.
func TestReplaceTooLate(t *testing.T) {
	for when, given := range map[string]bool{"before the sockets": false, "after the sockets": true} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.watch()
			g := w.cgroup("workload")
			args := w.runArgs(g)
			p := w.start("sealed", args...)
			h := w.ask(g) // and it waits for the test
			done := w.predecessor(func(c *takeover.Conn) error {
				err := error(nil)
				if given {
					err = h.give(c)
				} else {
					err = expect(c, sayReady)
				}
				return errors.Join(err, c.Send(sayNo, nil))
			})
			_, errs, status := w.sotto(append(args, "--replace")...)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if status != exitFailure || !strings.Contains(errs, errGoesOn.Error()) || strings.Contains(errs, "the seal stays closed") {
				t.Errorf("status %d:\n%s", status, errs)
			}
			h.close()
			w.until("it to take everything back", func() bool { return strings.Contains(p.log(), "reclaimed the seal") })
			if out := w.dig(w.host, g, "@1.1.1.1", "after.example"); !strings.Contains(out, sealed4) {
				t.Error(out)
			}
			w.until("it to listen again", func() bool {
				_, _, status := w.sotto("reload")
				return status == 0
			})
			w.stop(p)
			w.nothingLeft()
		})
	}
}
