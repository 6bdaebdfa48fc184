// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sotto/internal/netlab/labtest"
)

// All probes succeed on a kernel that supports Sotto, and can fail.
func TestNeeds(t *testing.T) {
	labtest.NeedRoot(t)
	for _, n := range needs() {
		if err := n.probe(); err != nil {
			t.Errorf("%s: %v", n.what, err)
		}
	}
	if err := passProgram(0, 0); err == nil {
		t.Error("a program without a type was loaded")
	}
	if got := missing(need{what: "getpeername hook", since: "5.8"}, "5.4.0-42").Error(); got !=
		"this kernel (5.4.0-42) has no getpeername hook: Linux 5.8 or newer with CONFIG_CGROUP_BPF is needed" {
		t.Error(got)
	}
	if Release() == "unknown" {
		t.Error("the release is unknown")
	}
	cause := errors.New("another cause")
	if got := Explain(cause); got != cause {
		t.Errorf("Explain changed an error with an unknown cause: %v", got)
	}
}

// TestOptional: the features that Sotto uses where a kernel has them are found in the kernels that
// have them, and in no others. scripts/vm-test.sh reads the log.
func TestOptional(t *testing.T) {
	labtest.NeedRoot(t)
	for _, f := range []struct {
		name         string
		major, minor int // first kernel that has it
		found        bool
	}{
		{"errno-of-hooks", 5, 18, HasSetRetval()},
		{"netns-cookie", 5, 14, hasCookie()},
		{"tcx", 6, 6, hasTCX()},
		{"process-in-guard", 6, 10, KnowsCurrent()},
	} {
		if f.found != labtest.KernelAtLeast(t, f.major, f.minor) {
			t.Errorf("%s: found: %t, on %s", f.name, f.found, Release())
		}
		t.Logf("feature %s %s", f.name, map[bool]string{true: "yes", false: "no"}[f.found])
	}
}

// hasCookie reports whether a socket's network namespace can be identified, as intercept/spaces does.
func hasCookie() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err == nil
}

// hasTCX reports whether programs can be attached to interfaces as links, as intercept/guard does.
func hasTCX() bool {
	const loopback = 1
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXEgress})
	return err == nil
}
