// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// homeEnv is set for the processes of TestHome, which run this test binary.
const homeEnv = "SOTTO_TEST_HOME"

func TestMain(m *testing.M) {
	if os.Getenv(homeEnv) == "" {
		os.Exit(m.Run())
	}
	if err := inService(os.Args[1], os.Args[2]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// inService is the main function of a process with a mount namespace of its own. It prints the
// namespace with the name.
func inService(verb, name string) error {
	var ns *NS
	var err error
	switch verb {
	case "new":
		ns, err = New(name)
	case "open":
		ns, err = Open(name)
	case "delete":
		return Delete(name)
	case "delete-from-here":
		return DeleteFromHere(name)
	}
	if err != nil {
		return err
	}
	own, err := Open(name) // it is visible here, too
	if err != nil || own.ID() != ns.ID() {
		return fmt.Errorf("opened by its name: %v, want %v: %w", own, ns.ID(), err)
	}
	fmt.Println(ns.ID().Ino, Elsewhere())
	return onlyHere()
}

// onlyHere checks that no thread is in another mount namespace, or has its root there.
func onlyHere() error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads: %w", err)
	}
	want, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		got, err := os.Readlink(task + "/ns/mnt")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it exited
		}
		if err != nil || got != want {
			return fmt.Errorf("%s is in %s, want %s: %w", task, got, want, err)
		}
		// Its root has the same mount ID as that of the process.
		a, b := rootMount(task), rootMount("/proc/self")
		if a != "" && a != b {
			return fmt.Errorf("%s has mount %s for its root, want %s", task, a, b)
		}
	}
	return nil
}

// rootMount returns the ID of the first mount in a task's mountinfo, which lists the mounts
// below its root.
func rootMount(proc string) string {
	text, err := os.ReadFile(proc + "/mountinfo")
	if err != nil {
		return ""
	}
	id, _, _ := strings.Cut(string(text), " ")
	return id
}

// machine is a PID namespace. Its PID 1 is a shell with a /run of its own.
type machine struct {
	t  *testing.T
	in interface{ Write([]byte) (int, error) }
	r  *bufio.Reader
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private", "sh")
	cmd.Env = append(os.Environ(), homeEnv+"=1", "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // the shell exits
		_ = cmd.Wait()
	})
	m := &machine{t: t, in: in, r: bufio.NewReader(out)}
	m.run("mount -t proc proc /proc && mount -t tmpfs -o mode=755 tmpfs /run && mount --make-shared /run")
	return m
}

// run runs a script in PID 1, and returns its output.
func (m *machine) run(script string) string {
	m.t.Helper()
	if _, err := m.in.Write([]byte("{ " + script + "; } 2>&1 || echo status $?; echo the end\n")); err != nil {
		m.t.Fatal(err)
	}
	var all strings.Builder
	for {
		line, err := m.r.ReadString('\n')
		if err != nil {
			m.t.Fatalf("%s: %v\n%s%s", script, err, all.String(), line)
		}
		if line == "the end\n" {
			return all.String()
		}
		all.WriteString(line)
	}
}

// service runs this binary in a mount namespace of its own, with the arguments verb and
// name. The script setup runs there first; it may set SERVICE to a command that runs the
// binary.
func (m *machine) service(enter, setup, verb, name string) string {
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	return m.run(fmt.Sprintf("%s sh -c '%s exec $SERVICE %s %s %s'", enter, setup, self, verb, name))
}

// inodes returns the inode numbers of the namespaces that are mounted on a name in the mount
// namespace of PID 1.
func (m *machine) inodes(name string) []string {
	var all []string
	for line := range strings.Lines(m.run("cat /proc/self/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == Path(name) {
			all = append(all, strings.Trim(f[3], "net:[]"))
		}
	}
	return all
}

// If a process with a mount namespace of its own names a namespace, the name is visible on the
// whole machine and outlives the process. The next process can open and delete it.
func TestHome(t *testing.T) {
	needRoot(t)
	const slave, private = "unshare --mount --propagation slave", "unshare --mount --propagation private"
	// Like ProtectSystem=strict with ReadWritePaths=-/run/netns.
	const strict = "if [ -d /run/netns ]; then mount --rbind /run/netns /run/netns; rw=/run/netns; fi; " +
		"mount -o remount,bind,ro /run; for d in $rw; do mount -o remount,bind,rw $d; done; "
	// Like a container with the host's /run/netns, but not its /run.
	const container = "mkdir -p -m 755 /run/netns && d=$(mktemp -d) && mount --rbind /run/netns $d && umount -lR /run && mount -t tmpfs tmpfs /run && " +
		"mkdir /run/netns && mount --rbind $d /run/netns && umount -l $d && rmdir $d; "
	const confined = "SERVICE=\"setpriv --bounding-set -sys_chroot,-sys_ptrace\"; "
	for what, tc := range map[string]struct {
		enter, setup string
		elsewhere    bool
	}{
		"a service":           {slave, "", true},
		"read-only":           {slave, strict, true},
		"no propagation":      {private, "", true},
		"a container":         {slave, container, true},
		"a private container": {private, container, true},
		"another /run":        {slave, "mount -t tmpfs tmpfs /run; ", false},
		"the same namespace":  {"", "", false},
		"it may not enter":    {slave, "SERVICE=\"setpriv --bounding-set -sys_chroot\"; ", false},
	} {
		for _, remove := range []string{"delete", "delete-from-here"} {
			if !tc.elsewhere && remove != "delete" {
				continue
			}
			t.Run(what+"/"+remove, func(t *testing.T) {
				m := newMachine(t)
				m.run("umask 077")
				made := m.service(tc.enter, tc.setup, "new", "sotto")
				var ino string
				var elsewhere bool
				if _, err := fmt.Sscan(made, &ino, &elsewhere); err != nil || strings.Contains(made, "failed") {
					t.Fatalf("new: %s", made)
				}
				if elsewhere != tc.elsewhere {
					t.Errorf("elsewhere is %v", elsewhere)
				}
				// The process has exited, and its mount namespace was removed.
				seen := m.inodes("sotto")
				if !tc.elsewhere && tc.enter != "" {
					if len(seen) > 0 {
						t.Errorf("PID 1 sees %v", seen)
					}
					return
				}
				if len(seen) == 0 || slices.Compact(seen)[0] != ino {
					t.Errorf("PID 1 sees %v, want %s", seen, ino)
				}
				if mode := m.run("stat -c %a /run/netns"); mode != "755\n" {
					t.Errorf("the directory of names has mode %s", mode)
				}
				if got := m.service(tc.enter, tc.setup, "open", "sotto"); got != made {
					t.Errorf("opened: %s, want %s", got, made)
				}
				setup := tc.setup
				if remove == "delete-from-here" {
					setup += confined
				}
				if got := m.service(tc.enter, setup, remove, "sotto"); got != "" {
					t.Errorf("%s: %s", remove, got)
				}
				if left := m.inodes("sotto"); len(left) > 0 {
					t.Errorf("PID 1 still sees %v", left)
				}
				if left := m.run("ls /run/netns"); left != "" {
					t.Errorf("leftovers: %s", left)
				}
			})
		}
	}
}
