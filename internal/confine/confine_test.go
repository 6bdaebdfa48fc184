// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const selfVar = "SOTTO_TEST_CONFINE"

// TestMain makes the test binary the process that is confined.
func TestMain(m *testing.M) {
	if os.Getenv(selfVar) == "" {
		os.Exit(m.Run())
	}
	if err := confined(); err != nil {
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
	if err := Apply([]string{"CAP_NET_RAW"}, "unshare"); err != nil {
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
	return Apply([]string{"CAP_NET_RAW"}, "unshare")
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
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), selfVar+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestUnknown(t *testing.T) {
	if err := drop([]string{"CAP_OF_NOBODY"}); err == nil {
		t.Error("a capability that nobody knows was kept")
	}
}
