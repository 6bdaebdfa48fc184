// SPDX-License-Identifier: Apache-2.0

package run

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
)

// TestLeakResolved runs the real systemd-resolved as the workload. As systemd-networkd does, it sets
// the nameservers of an interface, which resolved queries from sockets that are bound to that
// (IP_UNICAST_IF over UDP).
func TestLeakResolved(t *testing.T) {
	command := func(global, link string, index int) []string {
		return e2e.Resolved{
			Dir: t.TempDir(), Settings: []string{"DNS=" + global, "DNSSEC=no"},
			Setup: fmt.Sprintf("printf '%%s\\n' ADMIN_STATE=configured OPER_STATE=routable CARRIER_STATE=carrier ADDRESS_STATE=routable 'DNS=%s' DOMAINS= 'ROUTE_DOMAINS=.' >/run/systemd/netif/links/%d", link, index),
		}.Command(t)
	}
	command("", "", 0) // it may skip the test
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
	p := w.Start("msg=sealed", append(w.RunArgs(g), "--log-queries")...)
	for name, servers := range map[string]struct{ global, link string }{
		"global": {"8.8.8.8 2001:db8::53", ""}, "of the interface": {"", "8.8.8.8 2001:db8::53"}, "of the interface, IPv6": {"", "2001:db8::54"},
	} {
		t.Run(name, func(t *testing.T) {
			args := command(servers.global, servers.link, index)
			cmd := w.Host.Command(t.Context(), g, args[0], args[1:]...)
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
