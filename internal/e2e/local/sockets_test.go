// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// nsswitch returns the start of a command line. The program that follows it resolves hosts by
// the given sources. Its nameserver is 127.0.0.53.
func (w *world) nsswitch(t *testing.T, sources string) []string {
	t.Helper()
	conf := w.ResolvConf("127.0.0.53")
	file := filepath.Join(t.TempDir(), "nsswitch.conf")
	e2e.WriteFile(t, file, "passwd: files\ngroup: files\nhosts: "+sources+"\n")
	return append(conf, "sh", "-c", `mount --bind "$0" /etc/nsswitch.conf && exec "$@"`, file)
}

// shell runs a command unsealed.
func (w *world) shell(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := w.Host.Command(t.Context(), w.outside, args[0], args[1:]...).CombinedOutput()
	return string(out)
}

// TestExecHidesResolved: under exec, nss-resolve cannot ask systemd-resolved over its socket, so
// glibc sends the query to the nameserver, and it is sealed. Without exec it does ask.
func TestExecHidesResolved(t *testing.T) {
	w := newWorld(t)
	dir := os.Getenv("SOTTO_RESOLVED")
	found, _ := filepath.Glob(dir + "/usr/lib/*/libnss_resolve.so.2")
	if len(found) == 0 {
		labtest.Skip(t, "needs libnss-resolve, installed or unpacked in $SOTTO_RESOLVED")
	}
	w.resolved(t, true)
	e2e.Eventually(t, "the socket of systemd-resolved", func() bool {
		_, err := os.Stat("/run/systemd/resolve/io.systemd.Resolve")
		return err == nil
	})
	lookup := append(w.nsswitch(t, "resolve [!UNAVAIL=return] dns"), "env", "LD_LIBRARY_PATH="+filepath.Dir(found[0]), "getent", "ahostsv4")
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
	program, err := exec.LookPath("nscd")
	if err != nil {
		program = filepath.Join(os.Getenv("SOTTO_RESOLVED"), "usr/sbin/nscd")
		if _, err := os.Stat(program); err != nil {
			labtest.Skip(t, "needs nscd, installed or unpacked in $SOTTO_RESOLVED")
		}
	}
	if err := os.MkdirAll("/run/nscd", 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(w.conf, "nscd.conf")
	e2e.WriteFile(t, conf, "enable-cache hosts yes\npositive-time-to-live hosts 60\nenable-cache passwd no\nenable-cache group no\nenable-cache services no\nenable-cache netgroup no\n")
	// nscd resolves by the nameserver in its own resolv.conf, in plain DNS.
	args := append(w.ResolvConf("8.8.8.8"), "sh", "-c", `mkdir -p /var/cache/nscd /var/db/nscd; exec "$0" --foreground -f "$1"`, program, conf)
	cmd := w.Host.Command(t.Context(), w.outside, args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	e2e.Eventually(t, "the socket of nscd", func() bool {
		_, err := os.Stat("/run/nscd/socket")
		return err == nil
	})
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
	cmd := h.Command(t.Context(), w.outside, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--listen-address="+addr, "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=-", "--address=/db/"+address, "--local=/db/", "--server=8.8.8.8")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	e2e.Eventually(t, "dnsmasq at "+addr, func() bool {
		return strings.Contains(w.Dig(h, w.outside, "+timeout=1", "+short", "@"+addr, "db"), address)
	})
}

// TestLocalContainers: a name that the resolver inside a container's network namespace knows
// (Docker's at 127.0.0.11) is asked there, although another container and the host have other
// resolvers with the same address.
func TestLocalContainers(t *testing.T) {
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
	if err != nil || !strings.Contains(string(out), "nameserver=127.0.0.1 cgroup=/"+filepath.Base(w.outside.Path)) {
		t.Errorf("--check: %v\n%s", err, out)
	}
	p := w.Start("msg=sealed", args...)
	if got := w.Dig(w.Host, g, "+short", "@127.0.0.1", "www.example.com"); strings.TrimSpace(got) != e2e.Plain4 {
		t.Errorf("%q, want the answer of the local resolver's own nameserver", got)
	}
	w.Stop(p)
	w.NothingLeft()
}
