// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot and skip are labtest's, which imports this package.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root to make network namespaces")
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SOTTO_REQUIRE_PRIVILEGED") == "1" {
		t.Fatalf("%s, and SOTTO_REQUIRE_PRIVILEGED=1", why)
	}
	t.Skipf("skipped: %s", why)
}

// testName returns a name of this process's own, free again after the test.
func testName(t *testing.T) string {
	name := fmt.Sprintf("sottotest-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	t.Cleanup(func() {
		if err := Delete(name); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(Path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left over: %v", Path(name), err)
		}
	})
	return name
}

func create(t *testing.T, name string) *NS {
	t.Helper()
	ns, err := New(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func currentID(t *testing.T) ID {
	t.Helper()
	ns, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	return ns.ID()
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/", "x\x00", strings.Repeat("x", 256)} {
		if _, err := Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open(%q): %v, want fs.ErrInvalid", name, err)
		}
		if err := Delete(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Delete(%q): %v, want fs.ErrInvalid", name, err)
		}
	}
	if _, err := Open("sottotest-no-such-name"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v, want fs.ErrNotExist", err)
	}
}

// A file of another filesystem, and a namespace of another kind, are refused.
func TestOpenPathRefuses(t *testing.T) {
	for _, path := range []string{"/etc/hostname", "/proc/self/ns/uts"} {
		if _, err := OpenPath(path); !errors.Is(err, ErrNotNamespace) {
			t.Errorf("OpenPath(%s): %v, want ErrNotNamespace", path, err)
		}
	}
	ns, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}

func TestNewOpenDelete(t *testing.T) {
	needRoot(t)
	name, home := testName(t), currentID(t)
	ns := create(t, name)
	if ns.ID() == home {
		t.Fatal("the new namespace is the old one")
	}
	if got := currentID(t); got != home {
		t.Fatal("New changed its caller's namespace")
	}
	again, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != ns.ID() {
		t.Error("the name leads to another namespace")
	}
	if _, err := New(name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New of a name in use: %v, want fs.ErrExist", err)
	}
	if err := ns.Mount(name); err != nil {
		t.Errorf("Mount of the name it has: %v", err)
	}
	names, err := Names()
	if err != nil || !strings.Contains(strings.Join(names, " "), name) {
		t.Errorf("Names: %v, %v; want %s in it", names, err, name)
	}
	for range 2 {
		if err := Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	// The open handle outlives the name, and can be named again.
	if err := ns.Mount(name); err != nil {
		t.Fatal(err)
	}
	back, err := Open(name)
	if err != nil || back.ID() != ns.ID() {
		t.Fatalf("open what was named again: %v", err)
	}
	back.Close()
}

func TestStaleNames(t *testing.T) {
	needRoot(t)
	t.Run("File", func(t *testing.T) {
		name := testName(t)
		create(t, name+"-first") // makes Dir
		t.Cleanup(func() { Delete(name + "-first") })
		if err := os.WriteFile(Path(name), nil, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(name); !errors.Is(err, ErrNotNamespace) {
			t.Errorf("Open of a stale file: %v, want ErrNotNamespace", err)
		}
		create(t, name)
	})
	t.Run("Stacked", func(t *testing.T) {
		name := testName(t)
		ns := create(t, name)
		for range 3 {
			if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), Path(name), "none", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := Delete(name); err != nil {
			t.Fatal(err)
		}
		create(t, name)
	})
}

func TestDo(t *testing.T) {
	needRoot(t)
	ns, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	home := currentID(t)

	var inside string
	err = ns.Do(func() error {
		if id := currentID(t); id != ns.ID() {
			t.Error("Do runs elsewhere")
		}
		out, err := exec.Command("readlink", "/proc/self/ns/net").Output()
		inside = strings.TrimSpace(string(out))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("net:[%d]", ns.ID().Ino); inside != want {
		t.Errorf("a child ran in %s, want %s", inside, want)
	}
	if got := currentID(t); got != home {
		t.Error("Do changed its caller's namespace")
	}
	want := errors.New("from fn")
	if err := ns.Do(func() error { return want }); err != want {
		t.Errorf("Do: %v, want fn's own error", err)
	}
	// A closed handle is an error of Do, and fn does not run.
	closed, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := closed.Do(func() error { t.Error("ran"); return nil }); err == nil {
		t.Error("Do on a closed namespace succeeded")
	}
}

// Goexit inside, which is what t.FailNow does, must not strand the caller, and
// no thread may come back in the wrong namespace, however many are used.
func TestDoNeverLeaksAThread(t *testing.T) {
	needRoot(t)
	ns, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	home := currentID(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			err := ns.Do(func() error {
				// Bound in the namespace, whose loopback is down and empty.
				if _, err := net.Dial("udp", "127.0.0.1:53"); err == nil {
					t.Error("a socket left the namespace")
				}
				if i%2 == 0 {
					return nil
				}
				return ns.Do(func() error { return nil })
			})
			if err != nil {
				t.Error(err)
			}
			if currentID(t) != home {
				t.Error("a thread came back in the wrong namespace")
			}
		})
	}
	wg.Wait()

	gone := make(chan bool)
	go func() {
		defer close(gone)
		_ = ns.Do(func() error { runtime.Goexit(); return nil })
		gone <- true
	}()
	if <-gone {
		t.Error("Do returned although fn called Goexit")
	}
}

func TestNetlink(t *testing.T) {
	needRoot(t)
	ns, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	h, err := ns.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp != 0 {
			t.Errorf("%s is up in a new namespace", l.Attrs().Name)
		}
	}
}

// ip-netns(8) and this package see each other's names.
func TestIproute2(t *testing.T) {
	needRoot(t)
	ip, err := exec.LookPath("ip")
	if err != nil {
		skip(t, "needs the program ip")
	}
	name := testName(t)
	if out, err := exec.Command(ip, "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ns, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	if err := Delete(name); err != nil {
		t.Fatal(err)
	}
	create(t, name)
	if out, err := exec.Command(ip, "-n", name, "link").CombinedOutput(); err != nil || !strings.Contains(string(out), "lo:") {
		t.Errorf("ip -n: %v: %s", err, out)
	}
	if out, err := exec.Command(ip, "netns", "del", name).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
