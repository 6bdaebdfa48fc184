// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
	"sotto/internal/netns"
)

// asService is a script in which PID 1 of a PID namespace runs sotto in a mount namespace of
// its own. The test sees the mounts of PID 1. With OVER=yes sotto's mounts are moved over a
// copy of the host's.
const asService = `mount --make-rprivate /proc && mount -t proc proc /proc && eval "$SETUP" || exit
unshare --mount --propagation slave sh -c '
	root=/
	if [ "$OVER" = yes ]; then
		mkdir -p /run/mounts && mount --rbind / /run/mounts && cd /run/mounts && mount --move . / && root=. || exit
	fi
	exec chroot $root sh -c "$STRICT" "$0" "$@"' "$0" "$@"
exit $?` // or the shell would become sotto

// strict makes /run read-only, as systemd does for ProtectSystem=strict.
const strict = `mkdir -p /run/sotto
for d in /run/sotto /run/netns; do if [ -d $d ]; then mount --rbind $d $d; fi; done
mount -o remount,bind,ro /run
for d in /run/sotto /run/netns; do if [ -d $d ]; then mount -o remount,bind,rw $d; fi; done
exec "$0" "$@"`

// service starts sotto as a service and waits until it has printed ready. Its process is not
// that of sotto: see sottoOf.
func (w world) service(ready string, args ...string) *e2e.Process {
	w.T.Helper()
	return w.serviceAfter("", ready, args...)
}

// serviceAfter is service after PID 1 has run a script.
func (w world) serviceAfter(setup, ready string, args ...string) *e2e.Process {
	w.T.Helper()
	line := append([]string{"--pid", "--fork", "--kill-child", "--mount", "--propagation", "unchanged", "sh", "-c", asService, w.Program.Path}, args...)
	cmd := w.Host.Command(context.Background(), nil, labtest.NeedTool(w.T, "unshare"), line...)
	cmd.Env = append(os.Environ(), e2e.RaceEnv, "SETUP="+setup, "STRICT="+strict)
	p, err := w.LaunchCommand(cmd) // if it is killed, so are all processes of its PID namespace
	if err != nil {
		w.T.Fatal(err)
	}
	w.WaitReady(p, ready)
	return p
}

// children returns the children of a process, without the one that tests the path of queries.
func (w world) children(pid int) (all []int) {
	w.T.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		w.T.Fatal(err)
	}
	for text := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(text)
		if err != nil {
			w.T.Fatal(err)
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		if err != nil || strings.HasSuffix(string(command), "\x00path-test\x00") {
			continue // it tests, or has done so
		}
		all = append(all, child)
	}
	return all
}

// sottoOf returns the process of sotto in a service, below its shells.
func (w world) sottoOf(p *e2e.Process) int {
	pid := p.Cmd.Process.Pid
	for next := w.children(pid); len(next) > 0; next = w.children(pid) {
		pid = next[0]
	}
	return pid
}

// TestService checks Sotto with its own mount namespace: its network namespace has a name in
// the host's, which stays after a crash and is removed by a stop. It cannot make read-only
// mounts writable again.
func TestService(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	ask := func(name string) {
		t.Helper()
		if out := w.Dig(w.Host, g, "@8.8.8.8", name); !strings.Contains(out, e2e.Sealed4) {
			t.Errorf("not answered:\n%s", out)
		}
	}
	id := func() netns.ID {
		t.Helper()
		ns, err := netns.Open(e2e.Instance)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		return ns.ID()
	}
	p := w.service("msg=sealed", w.RunArgs(g)...)
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
			t.Errorf("%s is %s, not that of the main thread", task, got)
		}
	}

	for call, nr := range map[string]uint32{"mount": unix.SYS_MOUNT, "open_tree": unix.SYS_OPEN_TREE, "fsopen": unix.SYS_FSOPEN, "unshare": unix.SYS_UNSHARE} {
		if !deniedCall(t, pid, nr) {
			t.Errorf("%s is allowed", call)
		}
	}
	if deniedCall(t, pid, unix.SYS_UMOUNT2) || deniedCall(t, pid, unix.SYS_SETNS) {
		t.Error("system calls that a stop needs are denied")
	}

	// After a crash the next process adopts the namespace.
	w.Kill(p)
	if out := w.Dig(w.Host, g, "+timeout=1", "@8.8.8.8", "dead.example"); strings.Contains(out, "ANSWER SECTION") {
		t.Errorf("answered:\n%s", out)
	}
	p = w.service("msg=sealed", w.RunArgs(g)...)
	ask("second.example")
	if got := id(); got != first {
		t.Errorf("namespace %v, want %v as before the crash", got, first)
	}

	// A takeover by a process started by hand, and one from that by a service.
	q := w.Replace(p, w.RunArgs(g)...)
	if deniedCall(t, q.Cmd.Process.Pid, unix.SYS_MOUNT) {
		t.Error("mount is denied to a process that was started by hand: repairs need it")
	}
	ask("third.example")
	r := w.service("msg=sealed", append(w.RunArgs(g), "--replace")...)
	<-q.Done
	ask("fourth.example")
	if got := id(); got != first {
		t.Errorf("namespace %v, want %v as before the takeovers", got, first)
	}

	// A lost name is not restored, and there is one warning.
	w.Shell("umount --lazy /run/netns/sotto; rm /run/netns/sotto")
	w.Until("a warning", func() bool { return strings.Contains(r.Log(), "lost its name") })
	ask("fifth.example")
	time.Sleep(2 * time.Second) // several checks
	if n := strings.Count(r.Log(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, r.Log())
	}
	w.stopService(r)
	w.NothingLeft()

	// A stop with the name in place.
	p = w.service("msg=sealed", w.RunArgs(g)...)
	ask("sixth.example")
	w.stopService(p)
	w.NothingLeft()
}

func link(t *testing.T, path string) string {
	t.Helper()
	got, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// stopService stops a service as its manager does.
func (w world) stopService(p *e2e.Process) {
	w.T.Helper()
	if err := unix.Kill(w.sottoOf(p), unix.SIGTERM); err != nil {
		w.T.Fatal(err)
	}
	select {
	case <-p.Done:
		if p.Err != nil {
			w.T.Errorf("after the stop: %v\n%s", p.Err, p.Log())
		}
	case <-time.After(labtest.Patience(20 * time.Second)):
		w.T.Fatal("it did not stop within 20 s")
	}
}

// TestServiceOver runs a service whose mounts were moved over a copy of the host's, as systemd
// before 254 does. It cannot remove the name. The stop is clean otherwise, and 'sotto down
// --stray' removes the name, and nothing of a seal.
func TestServiceOver(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	g := w.Cgroup("workload")
	named := func() bool {
		ns, err := netns.Open(e2e.Instance)
		if err != nil {
			return false
		}
		return ns.Close() == nil
	}
	stray := func() {
		t.Helper()
		if stdout, stderr, status := w.Sotto("down", "--stray"); status != 0 {
			t.Errorf("down --stray: status %d, %s%s", status, stdout, stderr)
		}
	}
	answered := func(want bool) {
		t.Helper()
		out := w.Dig(w.Host, g, "+timeout=2", "@8.8.8.8", "over.example")
		if strings.Contains(out, e2e.Sealed4) != want || strings.Contains(out, e2e.Plain4) {
			t.Errorf("want it answered: %v\n%s", want, out)
		}
	}
	const over = "export OVER=yes"
	p := w.serviceAfter(over, "msg=sealed", w.RunArgs(g)...)
	stray() // while it runs
	answered(true)
	w.Kill(p)
	stray() // after it was killed
	answered(false)
	if !named() {
		t.Error("down --stray has removed the namespace of a closed seal")
	}
	for range 2 {
		p = w.serviceAfter(over, "msg=sealed", w.RunArgs(g)...)
		answered(true)
		w.stopService(p)
		if !named() || !strings.Contains(p.Log(), "keeps its name") {
			t.Error("the name could be removed: this test proves nothing")
		}
	}
	stray()
	w.NothingLeft()
}

// TestServicePins checks that a service mounts bpffs, where it is not mounted yet, in the
// host's mount namespace. In its own, all pins and the seal would vanish with the service.
func TestServicePins(t *testing.T) {
	w := newWorld(t)
	g := w.Cgroup("workload")
	p := w.serviceAfter("mount --make-rprivate /sys && umount --lazy /sys/fs/bpf && mount --make-shared /sys", "msg=sealed", w.RunArgs(g)...)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", w.children(p.Cmd.Process.Pid)[0])) // of PID 1 in its namespace
	if err != nil || !strings.Contains(string(text), " /sys/fs/bpf ") {
		t.Errorf("PID 1 has no bpffs: %v\n%s", err, text)
	}
	w.stopService(p)
	w.NothingLeft()
}

// deniedCall runs the seccomp filter of a process on a system call. All threads have the same
// filter. It stops the second thread, since the parent of the process waits for the first.
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
	// The virtual machine loads in network byte order, as from a packet.
	verdict, err := vm.Run(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, nr), arch))
	if err != nil {
		t.Fatal(err)
	}
	return verdict != unix.SECCOMP_RET_ALLOW
}
