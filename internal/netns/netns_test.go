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

// needRoot and skip are those of labtest, which imports this package.
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

// testName returns a name that only this test uses. It is deleted after the test.
func testName(t *testing.T) string {
	name := fmt.Sprintf("sottotest-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	t.Cleanup(func() {
		if err := Delete(name); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(Path(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was not removed: %v", Path(name), err)
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
		t.Errorf("Open of a missing name: %v, want fs.ErrNotExist", err)
	}
}

// OpenPath refuses a file of another filesystem and a namespace of another type.
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
		t.Fatal("the new namespace is the current one")
	}
	if got := currentID(t); got != home {
		t.Fatal("New changed the namespace of its caller")
	}
	again, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != ns.ID() {
		t.Error("the name refers to another namespace")
	}
	if _, err := New(name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New of a name in use: %v, want fs.ErrExist", err)
	}
	if err := ns.Mount(name); err != nil {
		t.Errorf("Mount of its own name: %v", err)
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
	// The open namespace survives the removal of its name, and can be named again.
	if err := ns.Mount(name); err != nil {
		t.Fatal(err)
	}
	back, err := Open(name)
	if err != nil || back.ID() != ns.ID() {
		t.Fatalf("open after naming it again: %v", err)
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
			t.Error("Do runs in another namespace")
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
		t.Error("Do changed the namespace of its caller")
	}
	want := errors.New("from fn")
	if err := ns.Do(func() error { return want }); err != want {
		t.Errorf("Do: %v, want the error of fn", err)
	}
	// On a closed namespace Do returns an error and does not run fn.
	closed, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := closed.Do(func() error { t.Error("fn ran"); return nil }); err == nil {
		t.Error("Do on a closed namespace succeeded")
	}
}

// If fn calls Goexit, as t.FailNow does, Do must not block, and no thread may return in the
// wrong namespace, however many are used.
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
				// The loopback interface of the namespace is down and has no address.
				if _, err := net.Dial("udp", "127.0.0.1:53"); err == nil {
					t.Error("a socket is in another namespace")
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
				t.Error("a thread returned in the wrong namespace")
			}
		})
	}
	wg.Wait()

	returned := make(chan bool)
	go func() {
		defer close(returned)
		_ = ns.Do(func() error { runtime.Goexit(); return nil })
		returned <- true
	}()
	if <-returned {
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

// ip-netns(8) and this package use the same names.
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
