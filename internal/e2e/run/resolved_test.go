// SPDX-License-Identifier: Apache-2.0

package run

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
)

// resolvedVar names a directory in which systemd-resolved and its library are unpacked. On a
// machine where it is installed it becomes the resolver.
const resolvedVar = "SOTTO_RESOLVED"

// findResolved returns the path of systemd-resolved, and the directory of its library unless
// that is the system's.
func findResolved(t *testing.T) (program, library string) {
	t.Helper()
	dir := os.Getenv(resolvedVar)
	for _, pattern := range []string{dir + "/lib/systemd/systemd-resolved", dir + "/usr/lib/systemd/systemd-resolved"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			program = found[0]
		}
	}
	if program == "" {
		labtest.Skip(t, "needs systemd-resolved, installed or unpacked in $"+resolvedVar)
	}
	if dir == "" {
		return program, ""
	}
	for _, pattern := range []string{dir + "/usr/lib/*/systemd/libsystemd-shared-*.so", dir + "/lib/*/systemd/libsystemd-shared-*.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return program, filepath.Dir(found[0])
		}
	}
	return program, ""
}

// resolvedScript runs systemd-resolved with its own configuration, user and /run. As
// systemd-networkd does, it sets the nameservers of an interface.
const resolvedScript = `
set -e
cp /etc/passwd /etc/group "$dir"
echo 'systemd-resolve:x:992:992::/:/usr/sbin/nologin' >>"$dir/passwd"
echo 'systemd-resolve:x:992:' >>"$dir/group"
mount --bind "$dir/passwd" /etc/passwd
mount --bind "$dir/group" /etc/group
mkdir -p /etc/systemd /run/systemd
mount -t tmpfs tmpfs /etc/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/netif/links
printf '%s\n' '[Resolve]' "DNS=$global" FallbackDNS= DNSSEC=no DNSOverTLS=no LLMNR=no MulticastDNS=no Cache=no >/etc/systemd/resolved.conf
printf '%s\n' ADMIN_STATE=configured OPER_STATE=routable CARRIER_STATE=carrier ADDRESS_STATE=routable "DNS=$link" DOMAINS= 'ROUTE_DOMAINS=.' >"/run/systemd/netif/links/$index"
exec "$program"
`

// TestLeakResolved runs the real systemd-resolved as the workload. It queries nameservers of
// an interface from sockets that are bound to that (IP_UNICAST_IF over UDP).
func TestLeakResolved(t *testing.T) {
	program, library := findResolved(t)
	w := newWorld(t)
	w.Watch()
	g, outside := w.Cgroup("resolved"), w.Cgroup("outside")
	var index int
	err := w.Host.Do(func() error {
		l, err := net.InterfaceByName("eth0")
		if err == nil {
			index = l.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	for name, servers := range map[string]struct{ global, link string }{
		"global": {"8.8.8.8 2001:db8::53", ""}, "of the interface": {"", "8.8.8.8 2001:db8::53"}, "of the interface, IPv6": {"", "2001:db8::54"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := w.Host.Command(t.Context(), g, "unshare", "--mount", "sh", "-c", resolvedScript)
			cmd.Env = append(os.Environ(), "dir="+t.TempDir(), "global="+servers.global, "link="+servers.link,
				"index="+strconv.Itoa(index), "program="+program, "LD_LIBRARY_PATH="+library)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(unix.SIGTERM)
				_ = cmd.Wait() // its status is the signal's
				if t.Failed() {
					t.Log(out.String())
				}
			}()
			// Its stub is queried from outside the seal: only resolved itself is sealed.
			stub := func(args ...string) string { return w.Dig(w.Host, outside, append(args, "@127.0.0.53")...) }
			for end := time.Now().Add(20 * time.Second); !strings.Contains(stub("+timeout=1", "first.example"), e2e.Sealed4); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("no answer of the upstream:\n%s", stub("first.example"))
				}
			}
			for _, args := range [][]string{{"one.example"}, {"two.example", "AAAA"}, {"+tcp", "three.example"}, {"long.example", "TXT"}} {
				if got := stub(args...); !strings.Contains(got, "status: NOERROR") {
					t.Errorf("%v:\n%s", args, got)
				}
			}
		})
	}
	if !strings.Contains(p.Log(), filepath.Base(g.Path)) {
		t.Error("the listener received no query of that workload")
	}
	w.Stop(p)
	w.NothingLeft()
}
