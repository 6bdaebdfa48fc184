// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// Process is a sotto that runs in the background of a test.
type Process struct {
	Cmd  *netlab.Cmd
	Done chan struct{} // closed when it has exited
	Err  error         // valid when Done is closed

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Log returns its output so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Start starts sotto in the background and waits until it has printed ready. If it still
// runs at the end of the test it is killed.
func (w *World) Start(ready string, args ...string) *Process {
	w.T.Helper()
	return w.StartIn(nil, ready, args...)
}

// StartIn is Start in a cgroup. A nil cgroup is the one of the test.
func (w *World) StartIn(g *netlab.Cgroup, ready string, args ...string) *Process {
	w.T.Helper()
	p, err := w.Launch(g, args...)
	if err != nil {
		w.T.Fatal(err)
	}
	w.WaitReady(p, ready)
	return p
}

// WaitReady waits until p has printed ready. It fails the test if p exits.
func (w *World) WaitReady(p *Process, ready string) {
	w.T.Helper()
	w.Until("sotto to log "+ready, func() bool {
		if !p.Running() {
			w.T.Fatalf("%v exited: %v\n%s", p.Cmd.Args, p.Err, p.Log())
		}
		return strings.Contains(p.Log(), ready)
	})
}

// Launch starts sotto in the background, in a cgroup unless that is nil, and does not wait.
func (w *World) Launch(g *netlab.Cgroup, args ...string) (*Process, error) {
	p, err := w.LaunchCommand(w.Command(context.Background(), g, args...))
	if err == nil {
		w.Track(p.Cmd)
	}
	return p, err
}

// LaunchCommand starts a command that runs sotto in the background, and does not wait.
func (w *World) LaunchCommand(cmd *netlab.Cmd) (*Process, error) {
	p := &Process{Cmd: cmd, Done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	cmd.WaitDelay = time.Second // a child of a killed sotto may keep its output open
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		if p.Err = cmd.Wait(); errors.Is(p.Err, exec.ErrWaitDelay) {
			p.Err = nil
		}
		close(p.Done)
	}()
	w.T.Cleanup(func() {
		_ = cmd.Process.Kill() // fails if it has exited
		<-p.Done
		if w.T.Failed() {
			w.T.Logf("%v wrote:\n%s", cmd.Args, p.Log())
		}
	})
	return p, nil
}

// Stop stops p by a signal, as a service manager does. It fails the test if p does not
// exit with status 0 in time.
func (w *World) Stop(p *Process) {
	w.T.Helper()
	w.Signal(p, os.Interrupt)
	w.WaitExit(p)
}

// Signal sends p a signal.
func (w *World) Signal(p *Process, s os.Signal) {
	w.T.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		w.T.Errorf("send %v: %v", s, err)
	}
}

// WaitExit waits until p has exited. It fails the test if p does not exit in time, or if
// its status is not 0.
func (w *World) WaitExit(p *Process) {
	w.T.Helper()
	select {
	case <-p.Done:
		if p.Err != nil {
			w.T.Errorf("sotto exited: %v\n%s", p.Err, p.Log())
		}
	case <-time.After(labtest.Patience(20 * time.Second)):
		w.T.Error("sotto did not exit within 20 s")
	}
}

// Running reports whether p has not exited.
func (p *Process) Running() bool {
	select {
	case <-p.Done:
		return false
	default:
		return true
	}
}

// WaitLog waits until p has printed text.
func (w *World) WaitLog(p *Process, text string) {
	w.T.Helper()
	w.Until("sotto to log "+text, func() bool { return strings.Contains(p.Log(), text) })
}

// Kill kills p, as a crash does, and waits until it has exited.
func (w *World) Kill(p *Process) {
	w.T.Helper()
	if err := p.Cmd.Process.Kill(); err != nil {
		w.T.Fatal(err)
	}
	<-p.Done
}

// Until waits until done reports true. It fails the test if it does not in time.
func (w *World) Until(what string, done func() bool) {
	w.T.Helper()
	Eventually(w.T, what, done)
}

// PeakMemory returns the maximum resident memory of a process, in bytes.
func PeakMemory(t testing.TB, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
