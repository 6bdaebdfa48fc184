// SPDX-License-Identifier: Apache-2.0

package spaces

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/intercept/cgroup"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// world is a host with an engine in a cgroup, and a container's namespace and cgroup.
type world struct {
	*Owners
	t                  *testing.T
	lab                *netlab.Lab
	host, box          *netlab.Host
	engine, container  *netlab.Cgroup
	engineID, boxNetns uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	labtest.NeedRoot(t)
	w := &world{t: t, lab: labtest.New(t)}
	w.host, w.box = labtest.Host(t, w.lab, "host"), labtest.Host(t, w.lab, "box")
	w.engine, w.container = w.cgroup("engine"), w.cgroup("container")
	w.engineID = w.id(w.engine)
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := cgroup.NewPaths(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = paths.Close() })
	err = w.host.Do(func() (err error) {
		w.Owners, err = NewOwners(&Finder{}, paths)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE")
	if w.boxNetns = w.cookie(w.box); w.boxNetns == 0 {
		t.Fatal("the network namespace has no cookie")
	}
	return w
}

func (w *world) cgroup(name string) *netlab.Cgroup {
	w.t.Helper()
	c, err := w.lab.Cgroup(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) id(c *netlab.Cgroup) uint64 {
	w.t.Helper()
	id, err := cgroup.ID(c.Path)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) cookie(h *netlab.Host) (cookie uint64) {
	w.t.Helper()
	err := h.Do(func() (err error) {
		cookie, err = Cookie()
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return cookie
}

// start starts a process in a namespace and a cgroup, and returns a function that stops it.
func (w *world) start(h *netlab.Host, in *netlab.Cgroup) (pid int, stop func()) {
	w.t.Helper()
	return w.script(h, in, "echo started; exec sleep 600")
}

// script starts a shell script and waits until it writes a line.
func (w *world) script(h *netlab.Host, in *netlab.Cgroup, script string) (pid int, stop func()) {
	w.t.Helper()
	cmd := h.Command(w.t.Context(), in, "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	w.t.Cleanup(stop)
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		w.t.Fatal(err)
	}
	return cmd.Process.Pid, stop
}

// want checks the owner of a namespace for a cgroup; nil: it is the cgroup itself, or not known.
func (w *world) want(asking *netlab.Cgroup, netns uint64, owner *netlab.Cgroup) {
	w.t.Helper()
	want := ""
	if owner != nil {
		rel, err := filepath.Rel(w.paths.Root(), owner.Path)
		if err != nil {
			w.t.Fatal(err)
		}
		want = "/" + rel
	}
	if got, ok := w.Find(w.id(asking), uint32(netns)); got != want || ok != (want != "") {
		w.t.Errorf("the owner is %q (%v), want %q", got, ok, want)
	}
}

// expire makes all results invalid, as time does.
func (w *world) expire() {
	for a, found := range w.known {
		found.until = time.Time{}
		w.known[a] = found
	}
}

// A socket of an engine in the namespace of a container asks for the container, whatever enters
// the namespace later.
func TestOwnerIsContainer(t *testing.T) {
	w := newWorld(t)
	w.start(w.host, w.engine)
	w.start(w.box, w.container)
	later := w.cgroup("later")
	w.start(w.box, later)
	w.want(w.engine, w.boxNetns, w.container)
	w.want(later, w.boxNetns, nil)
	w.want(w.container, w.boxNetns, nil)
	if n := testing.AllocsPerRun(100, func() { w.Find(w.engineID, uint32(w.boxNetns)) }); n != 0 {
		t.Errorf("a known owner costs %v allocations", n)
	}
}

// The owner is the cgroup of the oldest process.
func TestOwnerIsOldest(t *testing.T) {
	w := newWorld(t)
	w.start(w.host, w.engine)
	_, stop := w.start(w.box, w.container)
	second := w.cgroup("second")
	w.start(w.box, second)
	w.want(w.engine, w.boxNetns, w.container)
	stop()
	w.start(w.box, w.container)
	w.expire()
	w.want(w.engine, w.boxNetns, second)
}

// A cgroup with a process in the namespace asks for itself, also if it has others on the host.
func TestOwnerInNamespace(t *testing.T) {
	w := newWorld(t)
	w.start(w.box, w.container)
	w.start(w.host, w.engine)
	_, stop := w.start(w.box, w.engine)
	w.want(w.engine, w.boxNetns, nil)
	stop()
	w.want(w.engine, w.boxNetns, nil) // for up to a minute
	w.expire()
	w.want(w.engine, w.boxNetns, w.container)
}

// A container that shares the namespace of another cannot pass for it by leaving the namespace.
func TestOwnerNotForContainers(t *testing.T) {
	w := newWorld(t)
	w.start(w.box, w.container)
	sidecar, elsewhere := w.cgroup("sidecar"), labtest.Host(t, w.lab, "elsewhere")
	w.start(elsewhere, sidecar)
	w.want(sidecar, w.boxNetns, nil)
	w.want(w.cgroup("empty"), w.boxNetns, nil)
}

// As long as the namespace has no process its owner is not known; it is found soon after.
func TestOwnerLater(t *testing.T) {
	w := newWorld(t)
	w.start(w.host, w.engine)
	w.want(w.engine, w.boxNetns, nil)
	w.want(w.engine, 1<<31-1, nil) // no such namespace
	w.start(w.box, w.container)
	w.expire()
	w.want(w.engine, w.boxNetns, w.container)
	w.expire()
	w.Prune()
	if len(w.known) != 0 {
		t.Errorf("%d results are left", len(w.known))
	}
}

// A program that visits the namespace with a thread does not own it, nor does an engine whose main
// thread is there for a moment.
func TestOwnerVisits(t *testing.T) {
	python := labtest.NeedTool(t, "/usr/bin/python3")
	w := newWorld(t)
	// The main thread enters the namespace; the other one stays on the host.
	visit := "exec " + python + ` -c '
import ctypes, os, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
fd = os.open("/proc/PID/ns/net", os.O_RDONLY)
assert ctypes.CDLL(None).setns(fd, 0) == 0
print("inside", flush=True)
threading.Event().wait()'`
	first := w.cgroup("first")
	pid, stop := w.start(w.box, first)
	w.script(w.host, w.cgroup("visitor"), strings.Replace(visit, "PID", strconv.Itoa(pid), 1))
	w.script(w.host, w.engine, strings.Replace(visit, "PID", strconv.Itoa(pid), 1))
	w.start(w.box, w.container)
	stop()
	w.want(w.engine, w.boxNetns, w.container)
}

// A namespace with a name behind another mount is found through its process.
func TestFindHiddenName(t *testing.T) {
	w := newWorld(t)
	// Not one of the lab's, which has another name.
	pid, _ := w.script(w.host, w.container, "exec unshare --net sh -c 'echo started; exec sleep 600'")
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	ns, err := netns.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var cookie uint64
	if err := ns.Do(func() (err error) { cookie, err = Cookie(); return err }); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "name")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mount(t, path, name, "", unix.MS_BIND)
	mount(t, "hidden", dir, "tmpfs", 0)
	var finder Finder
	found := false
	err = finder.Do(uint32(cookie), func() []int { return nil }, func() error { found = true; return nil })
	if err != nil || !found {
		t.Errorf("found: %v, %v", found, err)
	}
}

func mount(t *testing.T, source, target, kind string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

func TestBudget(t *testing.T) {
	b, now := make(budget), time.Now()
	for i := range searchBurst {
		if !b.allow("/user.slice/user-1.slice/a", now) {
			t.Fatalf("search %d was refused", i)
		}
	}
	if b.allow("/user.slice/user-1.slice/b", now) {
		t.Error("one more search of the user was allowed")
	}
	if !b.allow("/docker/1", now) {
		t.Error("a search of a container was refused")
	}
	if now = now.Add(searchInterval); !b.allow("/user.slice/user-1.slice/b", now) || b.allow("/user.slice/user-1.slice/b", now) {
		t.Error("not one search after the interval")
	}
	for i := range 2 * maxBudgets {
		b.allow("/docker/"+strconv.Itoa(i), now)
	}
	if len(b) > maxBudgets {
		t.Errorf("%d entries", len(b))
	}
}
