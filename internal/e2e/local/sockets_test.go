// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// shell runs a command unsealed.
func (w *world) shell(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := w.Host.Command(t.Context(), w.resolvers, args[0], args[1:]...).CombinedOutput()
	return string(out)
}

// TestExecHidesResolved: under exec, nss-resolve cannot ask systemd-resolved over its socket, so
// glibc sends the query to the nameserver, and it is sealed. Without exec it does ask.
func TestExecHidesResolved(t *testing.T) {
	w := newWorld(t)
	lib := nssResolve(t)
	w.resolved(t, true)
	lookup := append(w.nsswitch(t, "resolve [!UNAVAIL=return] dns", "127.0.0.53"), "env", "LD_LIBRARY_PATH="+lib, "getent", "ahostsv4")
	if got := w.shell(t, append(lookup, "control.example.com")...); !strings.Contains(got, e2e.Plain4) {
		t.Fatalf("without exec systemd-resolved was not asked: %s", got)
	}
	w.Watch()
	stdout, stderr, status := w.Exec(append(lookup, "www.example.com")...)
	if !strings.Contains(stdout, e2e.Sealed4) {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	stdout, stderr, status = w.Exec(append(lookup, "printer")...)
	if !strings.Contains(stdout, local4) {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	if _, err := os.Stat("/run/systemd/resolve/io.systemd.Resolve"); err != nil {
		t.Errorf("the socket disappeared for others: %v", err)
	}
	w.NothingLeft()
}

// TestExecHidesNscd is TestExecHidesResolved with nscd, also for a command of another user.
func TestExecHidesNscd(t *testing.T) {
	w := newWorld(t)
	w.nscd(t, "8.8.8.8") // it resolves in plain DNS
	lookup := append(w.ResolvConf("8.8.4.4"), "getent", "hosts")
	e2e.Eventually(t, "nscd to answer", func() bool {
		return strings.Contains(w.shell(t, append(lookup, "control.example.com")...), "2001:db8:bad::66")
	})
	w.Watch()
	for _, args := range [][]string{{"exec"}, {"exec", "--user", "nobody"}} {
		line := append(append(args, w.UpstreamArgs()...), "--", "getent", "ahostsv4", "control.example.com")
		conf := w.ResolvConf("8.8.4.4")
		// The resolv.conf is mounted around exec, because a user cannot mount.
		cmd := w.Host.Command(t.Context(), nil, conf[0], append(conf[1:], append([]string{w.Program.Path}, line...)...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), e2e.Sealed4) {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	w.NothingLeft()
}

// dnsmasqIn runs dnsmasq at addr on a host; db has the given address.
func (w *world) dnsmasqIn(t *testing.T, h *netlab.Host, addr, address string) {
	t.Helper()
	cmd := h.Command(t.Context(), w.resolvers, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--listen-address="+addr, "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=-", "--address=/db/"+address, "--local=/db/", "--server=8.8.8.8")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	e2e.Eventually(t, "dnsmasq at "+addr, func() bool {
		return strings.Contains(w.Dig(h, w.resolvers, "+timeout=1", "+short", "@"+addr, "db"), address)
	})
}

// TestLocalContainers: a name that the resolver inside a container's network namespace knows
// (Docker's at 127.0.0.11) is asked there, although another container and the host have other
// resolvers with the same address.
func TestLocalContainers(t *testing.T) {
	labtest.NeedKernel(t, 5, 14, "SO_NETNS_COOKIE")
	w := newWorld(t)
	labtest.NeedTool(t, "dnsmasq")
	b := w.bridge(t)
	w.Watch()
	g := w.Cgroup("containers")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	w.dnsmasqIn(t, w.Host, "127.0.0.11", "10.9.9.1")
	for i, name := range []string{"one", "two"} {
		c, err := w.Lab.Container(b, name)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("10.9.9.%d", 11+i)
		w.dnsmasqIn(t, c, "127.0.0.11", want)
		for _, flag := range []string{"+notcp", "+tcp"} {
			if got := w.Dig(c, g, flag, "+short", "@127.0.0.11", "db"); strings.TrimSpace(got) != want {
				t.Errorf("%s %s: %q, want %s", name, flag, got, want)
			}
			if got := w.Dig(c, g, flag, "+short", "@127.0.0.11", "www.example.com"); strings.TrimSpace(got) != e2e.Sealed4 {
				t.Errorf("%s %s: %q, want %s", name, flag, got, e2e.Sealed4)
			}
		}
	}
	if got := w.Dig(w.Host, g, "+short", "@127.0.0.11", "db"); strings.TrimSpace(got) != "10.9.9.1" {
		t.Errorf("host: %q", got)
	}
	w.Stop(p)
	w.NothingLeft()
}

// TestLocalUncovered: with local-resolvers = "keep", queries to a local resolver are left alone. If the
// seal does not cover it, a warning at the start and of --check names it.
func TestLocalUncovered(t *testing.T) {
	w := newWorld(t)
	w.dnsmasq(t, "127.0.0.1")
	g := w.Cgroup("sealed")
	args := append(w.RunArgs(g), "--local-resolvers", "keep")
	conf := w.ResolvConf("127.0.0.1")
	out, err := w.Host.Command(t.Context(), nil, conf[0], append(conf[1:], append([]string{w.Program.Path}, append(args, "--check")...)...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nameserver=127.0.0.1 cgroup=/"+filepath.Base(w.resolvers.Path)) {
		t.Errorf("--check: %v\n%s", err, out)
	}
	p := w.Start("msg=sealed", args...)
	if got := w.Dig(w.Host, g, "+short", "@127.0.0.1", "www.example.com"); strings.TrimSpace(got) != e2e.Plain4 {
		t.Errorf("%q, want the answer of the local resolver's own nameserver", got)
	}
	w.Stop(p)
	w.NothingLeft()
}
