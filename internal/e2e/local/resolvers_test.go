// SPDX-License-Identifier: Apache-2.0

// Package local tests seals on machines with local resolvers: real programs that answer local
// names themselves, and forward all others in plain DNS.
package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	outside *netlab.Cgroup // of the local resolvers
	conf    string         // directory of their files
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: e2e.New(t)}
	w.outside = w.Cgroup("outside")
	// Programs under test drop privileges, and read files there.
	w.conf = t.TempDir()
	if err := os.Chmod(w.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts a local resolver outside of every seal, and waits until it answers at addr.
func (w *world) start(t *testing.T, addr string, env []string, args ...string) {
	t.Helper()
	labtest.NeedTool(t, args[0])
	cmd := w.Host.Command(t.Context(), w.outside, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
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
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got := w.Dig(w.Host, w.outside, "+timeout=1", "+short", "@"+addr, "printer")
		if strings.Contains(got, local4) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v does not answer: %s", args, got)
		}
	}
}

func (w *world) dnsmasq(t *testing.T, addr string) {
	args := []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--server=8.8.8.8",
		"--listen-address=" + addr, "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=-"}
	for _, n := range localNames {
		args = append(args, "--address=/"+n+"/"+local4, "--local=/"+n+"/") // AAAA is not forwarded either
	}
	w.start(t, addr, nil, args...)
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
	w.start(t, addr, nil, "unbound", "-d", "-c", file)
}

// resolvedScript runs systemd-resolved with its own configuration, user and /run.
const resolvedScript = `
set -e
cp /etc/passwd /etc/group "$dir"
echo 'systemd-resolve:x:992:992::/:/usr/sbin/nologin' >>"$dir/passwd"
echo 'systemd-resolve:x:992:' >>"$dir/group"
mount --bind "$dir/passwd" /etc/passwd
mount --bind "$dir/group" /etc/group
mount --bind "$dir/hosts" /etc/hosts
mkdir -p /etc/systemd /run/systemd
mount -t tmpfs tmpfs /etc/systemd
[ -n "$shared" ] || mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/netif/links
printf '%s\n' '[Resolve]' "DNS=8.8.8.8" FallbackDNS= DNSSEC=no DNSOverTLS=no LLMNR=no MulticastDNS=no Cache=no >/etc/systemd/resolved.conf
exec "$program"
`

// resolved starts systemd-resolved. shared makes its sockets below /run visible to others.
func (w *world) resolved(t *testing.T, shared bool) {
	t.Helper()
	dir := os.Getenv("SOTTO_RESOLVED")
	program, libs := "/lib/systemd/systemd-resolved", ""
	if dir != "" {
		program = filepath.Join(dir, program)
		found, _ := filepath.Glob(dir + "/usr/lib/*/systemd/libsystemd-shared-*.so")
		if len(found) > 0 {
			libs = filepath.Dir(found[0])
		}
	}
	if _, err := os.Stat(program); err != nil {
		labtest.Skip(t, "needs systemd-resolved, installed or unpacked in $SOTTO_RESOLVED")
	}
	hosts := ""
	for _, n := range localNames {
		hosts += local4 + " " + n + "\n"
	}
	e2e.WriteFile(t, filepath.Join(w.conf, "hosts"), hosts)
	env := []string{"dir=" + w.conf, "program=" + program, "LD_LIBRARY_PATH=" + libs}
	if shared {
		env = append(env, "shared=1")
	}
	w.start(t, "127.0.0.53", env, "unshare", "--mount", "--propagation", "private", "sh", "-c", resolvedScript)
}

// resolvers start local resolvers; their addresses are the nameservers of resolv.conf.
var resolvers = []struct {
	name    string
	start   func(w *world, t *testing.T)
	servers []string
}{
	{"dnsmasq on 127.0.0.1", func(w *world, t *testing.T) { w.dnsmasq(t, "127.0.0.1") }, []string{"127.0.0.1"}},
	{"unbound on ::1", func(w *world, t *testing.T) { w.unbound(t, "::1") }, []string{"::1"}},
	{"systemd-resolved", func(w *world, t *testing.T) { w.resolved(t, false) }, []string{"127.0.0.53"}},
	{"dnsmasq on a bridge", func(w *world, t *testing.T) { w.dnsmasq(t, bridge4) }, []string{bridge4}},
	// musl asks all of them at once and takes the first answer: a nameserver elsewhere would not know local names.
	{"three kinds", func(w *world, t *testing.T) { w.resolved(t, false); w.unbound(t, "::1"); w.dnsmasq(t, bridge4) },
		[]string{"127.0.0.53", "::1", bridge4}},
}

// clients resolve a name and print its IPv4 address.
func clients(t *testing.T) map[string][]string {
	t.Helper()
	return map[string][]string{
		"getent":  {"getent", "ahostsv4"},
		"dig":     {"dig", "+short", "+tries=1"},
		"dig TCP": {"dig", "+short", "+tries=1", "+tcp"},
		"musl":    {buildC(t, "musl-gcc", "-static")},
		"Go":      append([]string{"env", "GODEBUG=netdns=go"}, e2e.Client("lookup")...),
		"Go, cgo": append([]string{"env", "GODEBUG=netdns=cgo"}, e2e.Client("lookup")...),
	}
}

// buildC compiles a client that resolves by getaddrinfo.
func buildC(t *testing.T, compiler ...string) string {
	t.Helper()
	labtest.NeedTool(t, compiler[0])
	out := filepath.Join(t.TempDir(), "libc")
	if text, err := exec.Command(compiler[0], append(compiler[1:], "-o", out, "../resolve/testdata/libc.c")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", compiler, err, text)
	}
	return out
}

// checkClients resolves public and local names with all clients. run runs a command.
func (w *world) checkClients(t *testing.T, servers []string, run func(args ...string) (stdout, stderr string, status int)) {
	t.Helper()
	conf := w.ResolvConf(servers...)
	for client, args := range clients(t) {
		names := append([]string{"www.example.com"}, localNames...)
		loop := `for n in ` + strings.Join(names, " ") + `; do echo "= $n"; "$@" "$n"; done`
		stdout, stderr, _ := run(slices.Concat(conf, []string{"sh", "-c", loop, "sh"}, args)...)
		for i, got := range strings.Split(stdout, "= ")[1:] {
			want := local4
			if i == 0 {
				want = e2e.Sealed4
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s: want %s, got %s%s", client, want, got, stderr)
			}
		}
		if strings.Count(stdout, "= ") != len(names) {
			t.Errorf("%s: %s%s", client, stdout, stderr)
		}
	}
}

// TestLocalExec resolves under exec on machines with each kind of local resolver: public names over
// TLS, local names at the local resolver. No plain packet leaves the host.
func TestLocalExec(t *testing.T) {
	for _, r := range resolvers {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			w.bridge(t)
			w.Watch()
			r.start(w, t)
			w.checkClients(t, r.servers, w.Exec)
			w.NothingLeft()
		})
	}
}

// TestLocalRun is TestLocalExec with a seal of a running cgroup.
func TestLocalRun(t *testing.T) {
	for _, r := range resolvers {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			w.bridge(t)
			w.Watch()
			r.start(w, t)
			g := w.Cgroup("sealed")
			p := w.Start("msg=sealed", w.RunArgs(g)...)
			w.checkClients(t, r.servers, w.in(w.Host, g))
			w.Stop(p)
			w.NothingLeft()
		})
	}
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
