// SPDX-License-Identifier: Apache-2.0

// Package local tests seals on machines with local resolvers: real programs that answer local
// names themselves, and forward all others in plain DNS.
package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// local4 is the address of all names that the local resolvers know.
const local4 = "10.9.9.9"

// localNames are those names.
var localNames = []string{"printer", "nas.local", "db.internal"}

const bridge4 = "10.88.7.1"

type world struct {
	*e2e.World
	resolvers *netlab.Cgroup // cgroup of the local resolvers, which no seal covers unless a test decides otherwise
	conf      string         // directory of their files
	programs  *netlab.Host   // where programs resolve names
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: e2e.New(t)}
	w.resolvers = w.Cgroup("resolvers")
	// Programs under test drop privileges, and read files there.
	w.conf = t.TempDir()
	if err := os.Chmod(w.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts a local resolver, and waits until it answers at addr.
func (w *world) start(t *testing.T, addr string, args ...string) {
	t.Helper()
	w.daemon(t, args...)
	e2e.Eventually(t, args[0]+" at "+addr, func() bool {
		return strings.Contains(w.Dig(w.Host, w.resolvers, "+timeout=1", "+short", "@"+addr, "printer"), local4)
	})
}

// daemon starts a program in the cgroup of the resolvers, and stops it at the end of the test.
func (w *world) daemon(t *testing.T, args ...string) {
	t.Helper()
	labtest.NeedTool(t, args[0])
	cmd := w.Host.Command(t.Context(), w.resolvers, args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait() // its status is the signal's
		if t.Failed() {
			t.Logf("%v wrote:\n%s", args, out.String())
		}
	})
}

func (w *world) dnsmasq(t *testing.T, addr string) {
	args := []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--server=8.8.8.8",
		"--listen-address=" + addr, "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=-"}
	for _, n := range localNames {
		args = append(args, "--address=/"+n+"/"+local4, "--local=/"+n+"/") // AAAA is not forwarded either
	}
	w.start(t, addr, args...)
}

func (w *world) unbound(t *testing.T, addr string) {
	text := "server:\n interface: " + addr + "\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: \"" + w.conf + "\"\n pidfile: \"\"\n" +
		" use-syslog: no\n logfile: \"\"\n access-control: ::/0 allow\n module-config: \"iterator\"\n"
	for _, n := range localNames {
		text += " local-zone: \"" + n + ".\" redirect\n local-data: \"" + n + ". A " + local4 + "\"\n"
	}
	text += "forward-zone:\n name: \".\"\n forward-addr: 8.8.8.8\n"
	file := filepath.Join(w.conf, "unbound.conf")
	e2e.WriteFile(t, file, text)
	w.start(t, addr, "unbound", "-d", "-c", file)
}

// resolvedCommand returns the command line of systemd-resolved. shared makes its sockets below
// /run visible to others.
func (w *world) resolvedCommand(t *testing.T, shared bool) []string {
	t.Helper()
	hosts := ""
	for _, n := range localNames {
		hosts += local4 + " " + n + "\n"
	}
	e2e.WriteFile(t, filepath.Join(w.conf, "hosts"), hosts)
	return e2e.Resolved{
		Dir: w.conf, Settings: []string{"DNS=8.8.8.8", "DNSSEC=no"}, Shared: shared, Setup: `mount --bind "$dir/hosts" /etc/hosts`,
	}.Command(t)
}

// resolved starts systemd-resolved at 127.0.0.53.
func (w *world) resolved(t *testing.T, shared bool) {
	t.Helper()
	w.start(t, "127.0.0.53", w.resolvedCommand(t, shared)...)
	if shared {
		w.waitFile(t, "/run/systemd/resolve/io.systemd.Resolve")
	}
}

// nssResolve returns the directory of nss-resolve.
func nssResolve(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob(os.Getenv("SOTTO_RESOLVED") + "/usr/lib/*/libnss_resolve.so.2")
	if len(found) == 0 {
		labtest.Skip(t, "needs libnss-resolve, installed or unpacked in $SOTTO_RESOLVED")
	}
	return filepath.Dir(found[0])
}

const nscdSocket = "/run/nscd/socket"

// nscd starts nscd with a nameserver in its own resolv.conf.
func (w *world) nscd(t *testing.T, server string) {
	t.Helper()
	program, err := exec.LookPath("nscd")
	if err != nil {
		program = filepath.Join(os.Getenv("SOTTO_RESOLVED"), "usr/sbin/nscd")
		if _, err := os.Stat(program); err != nil {
			labtest.Skip(t, "needs nscd, installed or unpacked in $SOTTO_RESOLVED")
		}
	}
	conf := filepath.Join(w.conf, "nscd.conf")
	e2e.WriteFile(t, conf, "enable-cache hosts yes\npositive-time-to-live hosts 60\nenable-cache passwd no\nenable-cache group no\nenable-cache services no\nenable-cache netgroup no\n")
	t.Cleanup(func() { _ = os.Remove(nscdSocket) }) // it may have removed it itself
	w.daemon(t, append(w.nsswitch(t, "files dns", server), "sh", "-c",
		`mkdir -p /run/nscd /var/cache/nscd /var/db/nscd; exec "$0" --foreground -f "$1"`, program, conf)...)
	w.waitFile(t, nscdSocket)
}

// nsswitch returns the start of a command line. The program that follows it resolves hosts by the
// given sources of nsswitch.conf and nameservers.
func (w *world) nsswitch(t *testing.T, sources string, servers ...string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nsswitch.conf")
	e2e.WriteFile(t, file, "passwd: files\ngroup: files\nhosts: "+sources+"\n")
	return append(w.ResolvConf(servers...), "sh", "-c", `mount --bind "$0" /etc/nsswitch.conf && exec "$@"`, file)
}

func (w *world) waitFile(t *testing.T, path string) {
	t.Helper()
	e2e.Eventually(t, path, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// in returns a function that runs commands on a host in a cgroup.
func (w *world) in(h *netlab.Host, g *netlab.Cgroup) func(args ...string) (stdout, stderr string, status int) {
	return func(args ...string) (string, string, int) {
		cmd := h.Command(w.T.Context(), g, args[0], args[1:]...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // its status is returned
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
}

// bridge makes a bridge of containers.
func (w *world) bridge(t *testing.T) *netlab.Bridge {
	t.Helper()
	labtest.NeedTool(t, "nft")
	b, err := w.Lab.Bridge(t.Context(), w.Host, "br7", 7)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
