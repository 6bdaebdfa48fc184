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
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"sotto/internal/privdrop/privdroptest"
)

// modeVar is the environment variable that selects what the test binary does as a child
// process.
const modeVar = "SOTTO_TEST_PRIVDROP"

// TestMain runs the test binary as a child process that drops privileges.
func TestMain(m *testing.M) {
	var err error
	switch mode := os.Getenv(modeVar); mode {
	case "":
		os.Exit(m.Run())
	case "apply":
		err = applyAndCheck()
	case "ambient":
		err = applyInUnit()
	default:
		err = tryCalls(mode)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// applyAndCheck calls Apply while other threads exist, and checks that what must fail does.
func applyAndCheck() error {
	for range 4 { // existing threads
		ready := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(ready)
			select {}
		}()
		<-ready
	}
	if err := Apply(Limits{Keep: []string{"CAP_NET_RAW"}, Deny: []uint32{unix.SYS_UNSHARE}}); err != nil {
		return err
	}
	if err := exec.Command("/bin/true").Run(); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("execute a program: %v, want EPERM", err)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != unix.EPERM {
		return fmt.Errorf("unshare, in deny: %v, want EPERM", err)
	}
	if _, _, err := unix.Syscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0); err != unix.EPERM {
		return fmt.Errorf("ptrace: %v, want EPERM", err)
	}
	if _, err := os.ReadFile("/proc/self/status"); err != nil {
		return fmt.Errorf("read a file: %w", err)
	}
	if err := checkThreads(); err != nil {
		return err
	}
	// A second call succeeds and changes nothing.
	return Apply(Limits{Keep: []string{"CAP_NET_RAW"}, Deny: []uint32{unix.SYS_UNSHARE}})
}

// checkThreads checks the status of every thread.
func checkThreads() error {
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
			continue // the thread has exited
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 2 && want[f[0]] != "" && f[1] != want[f[0]] {
				return fmt.Errorf("thread %s: %s is %s, want %s", task.Name(), f[0], f[1], want[f[0]])
			}
		}
	}
	if len(tasks) < 5 {
		return fmt.Errorf("found only %d threads", len(tasks))
	}
	return nil
}

func TestApply(t *testing.T) {
	runChild(t, "apply")
}

// TestApplyInUnit: a unit with AmbientCapabilities= whose SystemCallFilter= denies capset.
func TestApplyInUnit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to have a capability")
	}
	runChild(t, "ambient")
}

// applyInUnit calls Apply with a capability that is kept and inheritable, where capset is denied, and
// checks that another capability is not kept silently.
func applyInUnit() error {
	if err := cap.ResetAmbient(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	set := cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
		if err := set.SetFlag(flag, true, cap.NET_RAW); err != nil {
			return err
		}
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); err != nil {
		return err
	}
	if err := errors.Join(set.SetProc(), filter([]uint32{unix.SYS_CAPSET})); err != nil {
		return err
	}
	if err := Apply(Limits{Keep: []string{"CAP_NET_RAW"}}); err != nil {
		return err
	}
	if err := Apply(Limits{}); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("a capability that is not kept: %v, want EPERM", err)
	}
	return nil
}

// runChild runs the test binary as a child process in the given mode and returns its output.
func runChild(t *testing.T, mode string) []byte {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), modeVar+"="+mode)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// listed returns the system calls of all lists.
func listed() []uint32 { return append(Unused(), Kernel()...) }

// others returns system calls that are on no list. The second is of the x32 ABI, which has
// its own numbers for the listed calls.
func others() []uint32 {
	if runtime.GOARCH == "amd64" {
		return []uint32{unix.SYS_GETPPID, x32Bit | unix.SYS_GETPPID}
	}
	return []uint32{unix.SYS_GETPPID}
}

// tryCalls makes every call in listed and others, after it has denied the lists that mode
// names, and prints the results as JSON.
func tryCalls(mode string) (err error) {
	switch mode {
	case "unused":
		err = Apply(Limits{})
	case "unused and kernel":
		err = Apply(Limits{Deny: Kernel()})
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

// TestEveryCall checks for each list that its system calls are denied, and no others.
func TestEveryCall(t *testing.T) {
	for mode, denied := range map[string][]uint32{"none": nil, "unused": Unused(), "unused and kernel": listed()} {
		t.Run(mode, func(t *testing.T) {
			var answers map[uint32]unix.Errno
			if err := json.Unmarshal(runChild(t, mode), &answers); err != nil {
				t.Fatal(err)
			}
			if mode != "none" && runtime.GOARCH == "amd64" {
				denied = append(denied, x32Bit|unix.SYS_GETPPID)
			}
			for _, nr := range append(listed(), others()...) {
				want := privdroptest.Unfiltered
				if slices.Contains(denied, nr) {
					want = unix.EPERM
				}
				if got, ok := answers[nr]; !ok || got != want {
					t.Errorf("system call %d: %v (tried: %t), want %v", nr, got, ok, want)
				}
			}
		})
	}
}

func TestUnknownCapability(t *testing.T) {
	if err := dropCapabilities([]string{"CAP_UNKNOWN"}, false); err == nil {
		t.Error("no error for an unknown capability")
	}
}

// TestProgram checks the result of the filter by architecture and number of the call.
func TestProgram(t *testing.T) {
	const eperm = unix.SECCOMP_RET_ERRNO | int(unix.EPERM)
	for _, tc := range []struct {
		name           string
		ours, arch, nr uint32
		want           int
	}{
		{"listed", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, 59, eperm},
		{"not listed", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, 1, unix.SECCOMP_RET_ALLOW},
		{"x32", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, x32Bit | 1, eperm},
		{"i386 on amd64", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, 1, eperm},
		{"arm64", unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_AARCH64, 1, unix.SECCOMP_RET_ALLOW},
		{"arm on arm64", unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 1, eperm},
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
		// The virtual machine loads data as from a packet: in network byte order.
		data := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, tc.nr), tc.arch)
		if got, err := vm.Run(data); err != nil || got != tc.want {
			t.Errorf("%s: %#x, %v; want %#x", tc.name, got, err, tc.want)
		}
	}
}
