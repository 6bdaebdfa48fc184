// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// asService is a script that has PID 1 of a process namespace run sotto with mounts of its
// own. What is mounted for PID 1 is for the test to see too. With OVER=yes the mounts are
// moved over a copy of the host's.
const asService = `mount --make-rprivate /proc && mount -t proc proc /proc && eval "$SETUP" || exit
unshare --mount --propagation slave sh -c '
	root=/
	if [ "$OVER" = yes ]; then
		mkdir -p /run/mounts && mount --rbind / /run/mounts && cd /run/mounts && mount --move . / && root=. || exit
	fi
	exec chroot $root sh -c "$STRICT" "$0" "$@"' "$0" "$@"
exit $?` // or the shell would become sotto

// strict makes /run read-only, as systemd has it with ProtectSystem=strict.
const strict = `mkdir -p /run/sotto
for d in /run/sotto /run/netns; do if [ -d $d ]; then mount --rbind $d $d; fi; done
mount -o remount,bind,ro /run
for d in /run/sotto /run/netns; do if [ -d $d ]; then mount -o remount,bind,rw $d; fi; done
exec "$0" "$@"`

// service starts sotto as a service, and waits until it printed ready. Its process is not
// the one that w.start would have.
func (w *world) service(ready string, args ...string) *process {
	w.t.Helper()
	return w.serviceAfter("", ready, args...)
}

// serviceAfter is service where PID 1 runs a script before.
func (w *world) serviceAfter(setup, ready string, args ...string) *process {
	w.t.Helper()
	line := append([]string{"--pid", "--fork", "--kill-child", "--mount", "--propagation", "unchanged", "sh", "-c", asService, executable()}, args...)
	p := &process{cmd: w.host.Command(context.Background(), nil, labtest.NeedTool(w.t, "unshare"), line...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), selfEnv+"=sotto", "GORACE=atexit_sleep_ms=0", "SETUP="+setup, "STRICT="+strict)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		if p.err = p.cmd.Wait(); errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // and with it all of its namespace
		<-p.done
		if w.t.Failed() {
			w.t.Logf("sotto %v wrote:\n%s", args, p.log())
		}
	})
	w.until("sotto to say "+ready, func() bool {
		select {
		case <-p.done:
			w.t.Fatalf("sotto %v ended: %v\n%s", args, p.err, p.log())
		default:
		}
		return strings.Contains(p.log(), ready)
	})
	return p
}

// children are the processes that a process has started.
func (w *world) children(pid int) (all []int) {
	w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for text := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(text)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, child)
	}
	return all
}

// sottoOf is the process that a service's process has come to be, through its shells.
func (w *world) sottoOf(p *process) int {
	pid := p.cmd.Process.Pid
	for next := w.children(pid); len(next) > 0; next = w.children(pid) {
		pid = next[0]
	}
	return pid
}

// TestService: with mounts of its own Sotto is seen by the machine as without: its network
// namespace has a name there, which outlives a crash and goes with a stop. What makes its
// file system read-only cannot be undone.
func TestService(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	ask := func(name string) {
		t.Helper()
		if out := w.dig(w.host, g, "@8.8.8.8", name); !strings.Contains(out, sealed4) {
			t.Errorf("not answered:\n%s", out)
		}
	}
	id := func() netns.ID {
		t.Helper()
		ns, err := netns.Open(runName)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		return ns.ID()
	}
	p := w.service("sealed", w.runArgs(g)...)
	ask("first.example")
	first := id()
	pid := w.sottoOf(p)
	if mine, its := link(t, "/proc/self/ns/mnt"), link(t, fmt.Sprintf("/proc/%d/ns/mnt", pid)); mine == its {
		t.Fatalf("sotto has this test's mount namespace %s", its)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/mnt", pid))
	if err != nil || len(tasks) < 2 {
		t.Errorf("its threads: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		if got, err := os.Readlink(task); err == nil && got != link(t, fmt.Sprintf("/proc/%d/ns/mnt", pid)) {
			t.Errorf("%s is %s", task, got)
		}
	}

	for call, nr := range map[string]uint32{"mount": unix.SYS_MOUNT, "open_tree": unix.SYS_OPEN_TREE, "fsopen": unix.SYS_FSOPEN, "unshare": unix.SYS_UNSHARE} {
		if !deniedCall(t, pid, nr) {
			t.Errorf("it may call %s", call)
		}
	}
	if deniedCall(t, pid, unix.SYS_UMOUNT2) || deniedCall(t, pid, unix.SYS_SETNS) {
		t.Error("it may not call what it needs for a stop")
	}

	// A crash: the next one finds the namespace, and those who ask notice nothing after.
	w.kill(p)
	if out := w.dig(w.host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
		t.Errorf("answered:\n%s", out)
	}
	p = w.service("sealed", w.runArgs(g)...)
	ask("second.example")
	if got := id(); got != first {
		t.Errorf("namespace %v, want %v as before the crash", got, first)
	}

	// By hand over it, and a service over that.
	q := w.next(p, w.runArgs(g)...)
	if deniedCall(t, q.cmd.Process.Pid, unix.SYS_MOUNT) {
		t.Error("started by hand it may not call mount, which repairs take")
	}
	ask("third.example")
	r := w.service("sealed", append(w.runArgs(g), "--replace")...)
	<-q.done
	ask("fourth.example")
	if got := id(); got != first {
		t.Errorf("namespace %v, want %v as before the takeovers", got, first)
	}

	// A name that is lost stays lost, is told once, and is all that is.
	w.sh("umount --lazy /run/netns/sotto; rm /run/netns/sotto")
	w.until("a warning", func() bool { return strings.Contains(r.log(), "lost its name") })
	ask("fifth.example")
	time.Sleep(2 * time.Second) // several looks
	if n := strings.Count(r.log(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, r.log())
	}
	w.stopService(r)
	w.nothingLeft()

	// And a stop with the name in place.
	p = w.service("sealed", w.runArgs(g)...)
	ask("sixth.example")
	w.stopService(p)
	w.nothingLeft()
}

func link(t *testing.T, path string) string {
	t.Helper()
	got, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// stopService ends a service as its manager would.
func (w *world) stopService(p *process) {
	w.t.Helper()
	if err := unix.Kill(w.sottoOf(p), unix.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-p.done:
		if p.err != nil {
			w.t.Errorf("stopped: %v\n%s", p.err, p.log())
		}
	case <-time.After(20 * time.Second):
		w.t.Fatal("it did not stop within 20 s")
	}
}

// TestServiceOver: where the service's mounts were moved over a copy of the host's, as
// systemd does it before 254, the name cannot be removed from there. A stop is clean all
// the same, and 'sotto down --stray' removes it, and nothing of a seal.
func TestServiceOver(t *testing.T) {
	w := newWorld(t)
	w.watch()
	g := w.cgroup("workload")
	named := func() bool {
		ns, err := netns.Open(runName)
		if err != nil {
			return false
		}
		return ns.Close() == nil
	}
	stray := func() {
		t.Helper()
		if stdout, stderr, status := w.sotto("down", "--stray"); status != 0 {
			t.Errorf("down --stray: status %d, %s%s", status, stdout, stderr)
		}
	}
	answered := func(want bool) {
		t.Helper()
		out := w.dig(w.host, g, "+timeout=2", "@8.8.8.8", "over.example")
		if strings.Contains(out, sealed4) != want || strings.Contains(out, plain4) {
			t.Errorf("want it answered: %v\n%s", want, out)
		}
	}
	const over = "export OVER=yes"
	p := w.serviceAfter(over, "sealed", w.runArgs(g)...)
	stray() // it runs
	answered(true)
	w.kill(p)
	stray() // it was killed
	answered(false)
	if !named() {
		t.Error("down --stray has taken the namespace of a seal that is closed")
	}
	for range 2 {
		p = w.serviceAfter(over, "sealed", w.runArgs(g)...)
		answered(true)
		w.stopService(p)
		if !named() || !strings.Contains(p.log(), "keeps its name") {
			t.Error("the name could be removed: this test is of nothing")
		}
	}
	stray()
	w.nothingLeft()
}

// TestServicePins: where nothing had mounted bpffs yet, it is mounted for the machine, and
// not for the service alone, with which all pins, and so the seal, would vanish.
func TestServicePins(t *testing.T) {
	w := newWorld(t)
	g := w.cgroup("workload")
	p := w.serviceAfter("mount --make-rprivate /sys && umount --lazy /sys/fs/bpf && mount --make-shared /sys", "sealed", w.runArgs(g)...)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", w.children(p.cmd.Process.Pid)[0])) // of PID 1 there
	if err != nil || !strings.Contains(string(text), " /sys/fs/bpf ") {
		t.Errorf("PID 1 has no bpffs: %v\n%s", err, text)
	}
	w.stopService(p)
	w.nothingLeft()
}

// deniedCall runs the system call filter of a process on a call. It is that of all its
// threads; not the first one is stopped for it, which the process's parent waits for.
func deniedCall(t *testing.T, process int, nr uint32) bool {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", process))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads of %d: %v, %v", process, tasks, err)
	}
	pid, err := strconv.Atoi(tasks[1].Name())
	if err != nil || pid == process {
		t.Fatal(tasks, err)
	}
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.PtraceDetach(pid) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, %v", status, err)
	}
	var raw [4096]unix.SockFilter // BPF_MAXINSNS
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 0, uintptr(unsafe.Pointer(&raw[0])), 0, 0)
	if errno != 0 {
		t.Fatalf("read the filter of process %d: %v", pid, errno)
	}
	var code []bpf.RawInstruction
	for _, i := range raw[:n] {
		code = append(code, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	insns, ok := bpf.Disassemble(code)
	vm, err := bpf.NewVM(insns)
	if !ok || err != nil {
		t.Fatal(err)
	}
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	// The virtual machine loads as from a packet: in network order.
	verdict, err := vm.Run(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, nr), arch))
	if err != nil {
		t.Fatal(err)
	}
	return verdict != unix.SECCOMP_RET_ALLOW
}
