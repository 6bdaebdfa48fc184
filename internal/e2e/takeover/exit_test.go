// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"sotto/intercept"
	"sotto/internal/control"
	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/takeover"
)

// successor is the test in the role of a process that takes over.
type successor struct {
	c     *takeover.Conn
	udp   int
	files []*os.File

	replaced []string
}

// requestSockets requests a takeover from the Sotto of w, which seals g, until it has sent its
// sockets. The terms are those of an earlier version, without an identity.
func (w world) requestSockets(g *netlab.Cgroup) *successor {
	w.T.Helper()
	return w.requestSocketsWith(g, "")
}

// requestSocketsWith is requestSockets with additional terms. If they have a version, the old
// process first sends its predecessors.
func (w world) requestSocketsWith(g *netlab.Cgroup, more string) *successor {
	w.T.Helper()
	u, err := control.Replace(w.T.Context(), e2e.ControlSocket, runTerms(g, more))
	if err != nil {
		w.T.Fatal(err)
	}
	h := &successor{c: takeover.NewConn(u)}
	w.T.Cleanup(h.close)
	if err := h.c.Send(takeover.MsgReady, nil); err != nil {
		w.T.Fatal(err)
	}
	kind, data, files, err := h.c.Receive()
	if err == nil && kind == takeover.MsgReplaced && more != "" {
		if err = json.Unmarshal(data, &h.replaced); err == nil {
			kind, data, files, err = h.c.Receive()
		}
	}
	if err != nil || kind != takeover.MsgSockets || len(data) != 1 {
		w.T.Fatalf("got %q with %d bytes, %v", kind, len(data), err)
	}
	h.udp, h.files = int(data[0]), files
	return h
}

// runTerms returns the terms of a `run` that seals g.
func runTerms(g *netlab.Cgroup, more string) []byte {
	return []byte(`{"prefix4":"198.19.0.0/16","prefix6":"fd73:6f74:746f::/64","cgroups":["` + g.Path + `"]` + more + `}`)
}

func (h *successor) close() {
	_ = h.c.Close()
	for _, f := range h.files {
		_ = f.Close() // fails if it is closed
	}
}

// send sends the sockets on, as their owner would.
func (h *successor) send(c *takeover.Conn) error {
	if err := c.Expect(takeover.MsgReady); err != nil {
		return err
	}
	var fds []int
	for _, f := range h.files {
		fds = append(fds, int(f.Fd()))
	}
	return c.Send(takeover.MsgSockets, []byte{byte(h.udp)}, fds...)
}

// actAsPredecessor accepts the next takeover request on the control socket, and runs talk
// with its connection. The channel receives the error of talk.
func (w world) actAsPredecessor(talk func(*takeover.Conn) error) <-chan error {
	w.T.Helper()
	l, err := control.Listen(w.T.Context(), e2e.ControlSocket, 0)
	if err != nil {
		w.T.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.T.Context())
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
			done <- errors.Join(errors.New("no takeover was requested"), err)
			return
		}
		done <- errors.Join(err, talk(next), next.Close())
	}()
	return done
}

// TestReplaceOldDies kills the old process during a takeover, before and after it has sent
// its sockets. The new one continues, with the same slots and sockets.
func TestReplaceOldDies(t *testing.T) {
	for when, sent := range map[string]bool{"before the sockets": false, "after the sockets": true} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.Watch()
			g := w.Cgroup("workload")
			args := w.RunArgs(g)
			p := w.Start("msg=sealed", args...)
			k := w.OpenSocket(g)
			before := k.Ask()
			h := w.requestSockets(g)
			w.Kill(p)
			if !sent {
				h.close()
			}
			done := w.actAsPredecessor(func(c *takeover.Conn) error {
				if !sent {
					return nil
				}
				return h.send(c)
			})
			n := w.Start("msg=sealed", append(args, "--replace")...)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			h.close()
			w.Until("a warning", func() bool { return strings.Contains(n.Log(), "level=WARN") })
			if after := k.AskAfterRestart(); after != before {
				t.Errorf("the socket's slot was %s, is %s", before, after)
			}
			if out := w.Dig(w.Host, g, "+tcp", "@1.1.1.1", "after.example"); !strings.Contains(out, e2e.Sealed4) {
				t.Error(out)
			}
			w.Stop(w.Replace(n, args...))
			w.NothingLeft()
		})
	}
}

// openInstance opens and attaches the instance of `run` in the test, as a process that takes
// over g does.
func (w world) openInstance(g *netlab.Cgroup) *intercept.Instance {
	w.T.Helper()
	var inst *intercept.Instance
	err := w.Host.Do(func() (err error) {
		inst, err = intercept.Open(w.T.Context(), intercept.Config{Name: e2e.Instance, Cgroups: []string{g.Path}})
		return err
	})
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { _ = inst.Abandon() }) // fails if it is abandoned
	if err := inst.Attach(); err != nil {
		w.T.Fatal(err)
	}
	return inst
}

// TestReplaceNewHangs checks the takeover by a process that opens the instance and hangs. The
// old one answers queries meanwhile, and reclaims the instance when the new one has exited.
func TestReplaceNewHangs(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	args := w.RunArgs(g)
	p := w.Start("msg=sealed", args...)
	k := w.OpenSocket(g)
	before := k.Ask()
	h := w.requestSockets(g)
	inst := w.openInstance(g)
	name, err := net.ListenUnix("unix", &net.UnixAddr{Name: e2e.ControlSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer name.Close()
	// The old one handles this like a minute without a message.
	if err := h.c.Send(takeover.MsgDone, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.c.Expect(takeover.MsgRefused); err != nil {
		t.Fatalf("it does not report that it resumes: %v", err)
	}
	h.close()
	w.WaitLog(p, "the other Sotto hangs")
	if after := k.Ask(); after != before {
		t.Errorf("the socket's slot was %s, is %s", before, after)
	}
	if err := inst.Abandon(); err != nil {
		t.Fatal(err)
	}
	w.WaitLog(p, "reclaimed the seal")
	// The name of the control socket becomes free later than the lock. The old one finds it
	// in use, since this accepts its connection, and has to try again.
	if err := name.SetDeadline(time.Now().Add(labtest.Patience(20 * time.Second))); err != nil {
		t.Fatal(err)
	}
	probe, err := name.Accept()
	if err != nil {
		t.Fatalf("it does not try the name of its control socket: %v", err)
	}
	_ = probe.Close()
	if err := name.Close(); err != nil {
		t.Fatal(err)
	}
	w.Until("it to listen again", func() bool {
		_, _, status := w.Sotto("reload")
		return status == 0
	})
	if after := k.Ask(); after != before {
		t.Errorf("the socket's slot was %s, is %s", before, after)
	}
	w.Stop(w.Replace(p, args...))
	w.NothingLeft()
}

// TestReplaceTooLate checks that a process that is refused because the old one resumed exits
// and changes nothing.
func TestReplaceTooLate(t *testing.T) {
	for when, sent := range map[string]bool{"before the sockets": false, "after the sockets": true} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			w.Watch()
			g := w.Cgroup("workload")
			args := w.RunArgs(g)
			p := w.Start("msg=sealed", args...)
			h := w.requestSockets(g) // the old one waits for the test
			done := w.actAsPredecessor(func(c *takeover.Conn) error {
				err := error(nil)
				if sent {
					err = h.send(c)
				} else {
					err = c.Expect(takeover.MsgReady)
				}
				return errors.Join(err, c.Send(takeover.MsgRefused, nil))
			})
			_, errs, status := w.Sotto(append(args, "--replace")...)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if status != e2e.ExitFailure || !strings.Contains(errs, takeover.ErrTooLate.Error()) || strings.Contains(errs, "the seal stays closed") {
				t.Errorf("status %d:\n%s", status, errs)
			}
			h.close()
			w.Until("the instance to be reclaimed", func() bool { return strings.Contains(p.Log(), "reclaimed the seal") })
			if out := w.Dig(w.Host, g, "@1.1.1.1", "after.example"); !strings.Contains(out, e2e.Sealed4) {
				t.Error(out)
			}
			w.Until("it to listen again", func() bool {
				_, _, status := w.Sotto("reload")
				return status == 0
			})
			w.Stop(p)
			w.NothingLeft()
		})
	}
}
