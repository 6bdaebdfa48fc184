// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"os/exec"
	"testing"

	"sotto/internal/netlab"
)

// require names the variable that turns skips into failures.
const require = "SOTTO_REQUIRE_PRIVILEGED"

// Skip skips the test, naming why; it fails it under SOTTO_REQUIRE_PRIVILEGED=1.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(require) == "1" {
		t.Fatalf("%s, and %s=1", why, require)
		return // for a TB whose Fatalf returns
	}
	t.Skipf("skipped: %s", why)
}

// NeedRoot skips the test without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root to make network namespaces and cgroups")
	}
}

// NeedTool skips the test when a program is not installed, and returns its
// path when it is.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs the program "+name)
	}
	return path
}

// New makes a lab that goes with the test. It needs root. No other test process has
// one at the same time.
func New(t testing.TB) *netlab.Lab {
	t.Helper()
	Machine(t)
	l, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("take the lab away: %v", err)
		}
	})
	return l
}

// LAN makes a lab with a host and the LAN it is connected to; see netlab.LAN.
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

// NewCgroup makes a cgroup that goes with the test. It needs root and cgroup2.
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

// Containers makes a masquerading bridge on host; it needs nft. See netlab.Bridge.
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
