// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"sotto/internal/netlab"
)

// requireVar is the environment variable that turns skips into failures.
const requireVar = "SOTTO_REQUIRE_PRIVILEGED"

// Skip skips the test with a reason. With SOTTO_REQUIRE_PRIVILEGED=1 the test fails.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(requireVar) == "1" {
		t.Fatalf("%s, and %s=1", reason, requireVar)
		return // for a TB whose Fatalf returns
	}
	t.Skipf("skipped: %s", reason)
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root to create network namespaces and cgroups")
	}
}

// NeedTool returns the path of a program. It skips the test if the program is not
// installed.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs the program "+name)
	}
	return path
}

// KernelAtLeast reports whether the kernel is of this version or newer. A test should ask for a
// feature instead, if there is a way to find it.
func KernelAtLeast(t testing.TB, major, minor int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var have [2]int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &have[0], &have[1]); err != nil {
		t.Fatalf("parse the kernel's release %q: %v", release, err)
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

// NeedKernel skips the test on kernels before a version, because they do not have what. Unlike
// [Skip] it does so too where tests may not be skipped.
func NeedKernel(t testing.TB, major, minor int, what string) {
	t.Helper()
	if !KernelAtLeast(t, major, minor) {
		t.Skipf("skipped: needs %s (Linux %d.%d)", what, major, minor)
	}
}

// New creates a lab that is removed when the test ends. It needs root. It calls
// LockMachine, so that no other test process has a lab at the same time.
func New(t testing.TB) *netlab.Lab {
	t.Helper()
	LockMachine(t)
	l, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("remove the lab: %v", err)
		}
	})
	return l
}

// LAN creates a lab with a host and a LAN; see netlab.Lab.LAN.
func LAN(t testing.TB) (l *netlab.Lab, host, lan *netlab.Host) {
	t.Helper()
	l = New(t)
	host, lan, err := l.LAN()
	if err != nil {
		t.Fatal(err)
	}
	return l, host, lan
}

// Host adds a machine to a lab.
func Host(t testing.TB, l *netlab.Lab, name string) *netlab.Host {
	t.Helper()
	h, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// NewCgroup creates a cgroup that is removed when the test ends. It needs root and cgroup
// v2.
func NewCgroup(t testing.TB) *netlab.Cgroup {
	t.Helper()
	l := New(t)
	if _, err := netlab.CgroupRoot(); err != nil {
		Skip(t, "needs cgroup2 mounted")
	}
	c, err := l.Cgroup("test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Containers creates a masquerading bridge on host with the named containers. It needs
// nft. See netlab.Lab.Bridge.
func Containers(t testing.TB, l *netlab.Lab, host *netlab.Host, names ...string) []*netlab.Host {
	t.Helper()
	NeedTool(t, "nft")
	b, err := l.Bridge(t.Context(), host, "br0", 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]*netlab.Host, len(names))
	for i, name := range names {
		if out[i], err = l.Container(b, name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
