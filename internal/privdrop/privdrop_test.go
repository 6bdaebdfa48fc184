// SPDX-License-Identifier: Apache-2.0

package privdrop

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"sotto/internal/privdrop/privdroptest"
)

const selfVar = "SOTTO_TEST_CONFINE"

// TestMain makes the test binary the process that is confined.
func TestMain(m *testing.M) {
	var err error
	switch as := os.Getenv(selfVar); as {
	case "":
		os.Exit(m.Run())
	case "confined":
		err = confined()
	default:
		err = tryCalls(as)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// confined applies it with threads of all ages about, and tries what must fail.
func confined() error {
	for range 4 { // threads that are there already
		ready := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ready)
			select {}
		}()
		<-ready
	}
	if err := Apply([]string{"CAP_NET_RAW"}, unix.SYS_UNSHARE); err != nil {
		return err
	}
	if err := exec.Command("/bin/true").Run(); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("started a program: %v", err)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != unix.EPERM {
		return fmt.Errorf("unshare, which was named: %v", err)
	}
	if _, _, err := unix.Syscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0); err != unix.EPERM {
		return fmt.Errorf("ptrace: %v", err)
	}
	if _, err := os.ReadFile("/proc/self/status"); err != nil {
		return fmt.Errorf("read a file: %w", err)
	}
	if err := threads(); err != nil {
		return err
	}
	// Once more takes no more away, and is no error.
	return Apply([]string{"CAP_NET_RAW"}, unix.SYS_UNSHARE)
}

// threads checks every thread's status.
func threads() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	want := map[string]string{"CapInh:": "0000000000000000", "CapAmb:": "0000000000000000", "NoNewPrivs:": "1", "Seccomp:": "2"}
	switch os.Geteuid() {
	case 0:
		want["CapPrm:"], want["CapEff:"], want["CapBnd:"] = "0000000000002000", "0000000000002000", "0000000000002000"
	default:
		want["CapPrm:"], want["CapEff:"] = "0000000000000000", "0000000000000000"
	}
	for _, task := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			continue // it just ended
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 2 && want[f[0]] != "" && f[1] != want[f[0]] {
				return fmt.Errorf("thread %s: %s is %s, want %s", task.Name(), f[0], f[1], want[f[0]])
			}
		}
	}
	if len(tasks) < 5 {
		return fmt.Errorf("looked at %d threads only", len(tasks))
	}
	return nil
}

func TestApply(t *testing.T) {
	self(t, "confined")
}

// self runs the test binary as another process, and returns what it printed.
func self(t *testing.T, as string) []byte {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), selfVar+"="+as)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// listed are all system calls that a process may ask to be refused.
func listed() []uint32 { return append(Unused(), Kernel()...) }

// others are calls that are on no list. The second is of x32, which has numbers of its
// own for what is listed.
func others() []uint32 {
	if runtime.GOARCH == "amd64" {
		return []uint32{unix.SYS_GETPPID, x32Bit | unix.SYS_GETPPID}
	}
	return []uint32{unix.SYS_GETPPID}
}

// tryCalls tries every call that is listed, and those others, in a process that gave up
// what its name says.
func tryCalls(as string) (err error) {
	switch as {
	case "unused":
		err = Apply(nil)
	case "unused and kernel":
		err = Apply(nil, Kernel()...)
	}
	if err != nil {
		return err
	}
	answers, err := privdroptest.Answers(append(listed(), others()...))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// TestEveryCall: every call on the lists is refused to the process that gave it up, and
// to no other.
func TestEveryCall(t *testing.T) {
	for as, refused := range map[string][]uint32{"free": nil, "unused": Unused(), "unused and kernel": listed()} {
		t.Run(as, func(t *testing.T) {
			var answers map[uint32]unix.Errno
			if err := json.Unmarshal(self(t, as), &answers); err != nil {
				t.Fatal(err)
			}
			if as != "free" && runtime.GOARCH == "amd64" {
				refused = append(refused, x32Bit|unix.SYS_GETPPID)
			}
			for _, nr := range append(listed(), others()...) {
				want := privdroptest.Unfiltered
				if slices.Contains(refused, nr) {
					want = unix.EPERM
				}
				if got, ok := answers[nr]; !ok || got != want {
					t.Errorf("system call %d: %v (tried: %t), want %v", nr, got, ok, want)
				}
			}
		})
	}
}

func TestUnknown(t *testing.T) {
	if err := drop([]string{"CAP_OF_NOBODY"}); err == nil {
		t.Error("a capability that nobody knows was kept")
	}
}

// TestProgram: what the filter says of a call, by its architecture and number.
func TestProgram(t *testing.T) {
	const refuse = unix.SECCOMP_RET_ERRNO | int(unix.EPERM)
	for _, tc := range []struct {
		name           string
		ours, arch, nr uint32
		want           int
	}{
		{"listed", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, 59, refuse},
		{"not listed", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, 1, unix.SECCOMP_RET_ALLOW},
		{"x32", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, x32Bit | 1, refuse},
		{"i386 on amd64", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, 1, refuse},
		{"arm64", unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_AARCH64, 1, unix.SECCOMP_RET_ALLOW},
		{"arm on arm64", unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 1, refuse},
	} {
		raw, err := program(tc.ours, []uint32{59, 101})
		if err != nil {
			t.Fatal(err)
		}
		insns, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("the program does not disassemble")
		}
		vm, err := bpf.NewVM(insns)
		if err != nil {
			t.Fatal(err)
		}
		// The virtual machine loads as from a packet: in network order.
		data := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, tc.nr), tc.arch)
		if got, err := vm.Run(data); err != nil || got != tc.want {
			t.Errorf("%s: %#x, %v; want %#x", tc.name, got, err, tc.want)
		}
	}
}
