// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sotto/internal/e2e"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// TestPlainWithoutSeal shows that watch can fail: without a seal its capture has every query
// and every reply, over UDP and TCP, of every nameserver of a world.
func TestPlainWithoutSeal(t *testing.T) {
	w := newWorld(t)
	dig := labtest.NeedTool(t, "dig")
	_, plain := w.CapturePlain()
	name := func(server, transport string) string {
		return transport + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(server) + ".example.com."
	}
	flags := map[string]string{"udp": "+notcp", "tcp": "+tcp"}
	for _, server := range netlab.Nameservers {
		for transport, flag := range flags {
			out, err := w.Host.Command(t.Context(), nil, dig, flag, "+short", "@"+server, name(server, transport)).Output()
			if err != nil || strings.TrimSpace(string(out)) != e2e.Plain4 {
				t.Errorf("dig %s @%s: %q, %v: want %s", flag, server, out, err, e2e.Plain4)
			}
		}
	}
	type seen struct {
		protocol uint8
		at       netip.AddrPort
		question string
		response bool
	}
	crossed := map[seen]bool{}
	for _, p := range plain() {
		at := p.Dst
		if p.Response {
			at = p.Src
		}
		crossed[seen{p.Protocol, at, p.Question, p.Response}] = true
	}
	for _, server := range netlab.Nameservers {
		at := netip.AddrPortFrom(netip.MustParseAddr(server), 53)
		for transport, protocol := range map[string]uint8{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP} {
			for _, response := range []bool{false, true} {
				if !crossed[seen{protocol, at, name(server, transport) + " A", response}] {
					t.Errorf("not captured: %s at %v, response %t", transport, at, response)
				}
			}
		}
	}
}

// realClients are existing programs, each with text that it must print: the answer, and that
// it is from the nameserver that was queried, if the program prints that.
var realClients = []struct {
	name string
	args string
	want []string
}{
	{"dig UDP 4", "dig @8.8.8.8 www.example.com", []string{"SERVER: 8.8.8.8#53(8.8.8.8) (UDP)", e2e.Sealed4}},
	{"dig TCP 4", "dig +tcp @1.1.1.1 www.example.com", []string{"SERVER: 1.1.1.1#53(1.1.1.1) (TCP)", e2e.Sealed4}},
	{"dig UDP 6", "dig @2001:db8::53 www.example.com AAAA", []string{"SERVER: 2001:db8::53#53(2001:db8::53) (UDP)", e2e.Sealed6}},
	{"dig TCP 6", "dig +tcp @2001:db8::53 www.example.com AAAA", []string{"SERVER: 2001:db8::53#53(2001:db8::53) (TCP)", e2e.Sealed6}},
	{"dig DNSSEC", "dig +dnssec @8.8.8.8 www.example.com", []string{"RRSIG", "flags: do"}},
	{"dig long TXT", "dig @8.8.8.8 txt-1500.example.com TXT", []string{"Truncated, retrying in TCP mode", "(TCP)", "MSG SIZE  rcvd: 1"}},
	{"dig longest TXT", "dig +tcp @8.8.8.8 txt-65000.example.com TXT", []string{"MSG SIZE  rcvd: 65"}},
	{"dig HTTPS", "dig @8.8.8.8 www.example.com HTTPS", []string{"HTTPS\t", "NOERROR"}},
	{"dig case", "dig @8.8.8.8 WwW.eXaMpLe.CoM", []string{"WwW.eXaMpLe.CoM."}},
	{"dig NXDOMAIN", "dig @8.8.8.8 nxdomain.example.com", []string{"NXDOMAIN", "SOA"}},
	{"dig cookie", "dig +cookie=0123456789abcdef @8.8.8.8 www.example.com", []string{e2e.Sealed4}},
	{"dig many servers", "dig a.example.com @8.8.8.8 b.example.com @9.9.9.9 +tcp c.example.com @1.1.1.1", []string{"SERVER: 8.8.8.8#53", "SERVER: 9.9.9.9#53", "SERVER: 1.1.1.1#53"}},
	{"kdig UDP", "kdig @1.1.1.1 www.example.com", []string{"From 1.1.1.1@53(UDP)", e2e.Sealed4}},
	{"kdig TCP 6", "kdig +tcp @2001:db8::54 www.example.com AAAA", []string{"From 2001:db8::54@53(TCP)", e2e.Sealed6}},
	{"drill", "drill www.example.com @8.8.8.8", []string{"SERVER: 8.8.8.8", e2e.Sealed4}},
	{"drill TCP", "drill -t www.example.com @9.9.9.9", []string{"SERVER: 9.9.9.9", e2e.Sealed4}},
	{"host", "host www.example.com 8.8.8.8", []string{"Address: 8.8.8.8#53", e2e.Sealed4, e2e.Sealed6}},
	{"host TCP", "host -T www.example.com 2001:db8::53", []string{"Address: 2001:db8::53#53", e2e.Sealed4}},
	{"nslookup", "busybox nslookup www.example.com 8.8.8.8", []string{"8.8.8.8:53", e2e.Sealed4}},
	{"dnspython", "/usr/bin/python3 testdata/dnspython.py 8.8.8.8 www.example.com", []string{"udp " + e2e.Sealed4, "tcp " + e2e.Sealed4, "txt ", "https "}},
	{"dnspython 6", "/usr/bin/python3 testdata/dnspython.py 2001:db8::53 www.example.com", []string{"udp " + e2e.Sealed4, "tcp " + e2e.Sealed4}},
}

// runRealClients runs each of them by run.
func runRealClients(t *testing.T, run func(args ...string) (stdout, stderr string, status int)) {
	for _, tc := range realClients {
		t.Run(tc.name, func(t *testing.T) {
			args := strings.Fields(tc.args)
			labtest.NeedTool(t, args[0])
			stdout, stderr, status := run(args...)
			if status != 0 {
				t.Errorf("status %d\n%s%s", status, stdout, stderr)
			}
			for _, want := range tc.want {
				if !strings.Contains(stdout, want) {
					t.Errorf("no %q in\n%s%s", want, stdout, stderr)
				}
			}
		})
	}
}

// TestRealClients runs existing programs sealed. No plain packet is sent.
func TestRealClients(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	runRealClients(t, w.Exec)
	for _, l := range w.Upstream.Log() {
		if l.Transport.String() != "tls" {
			t.Errorf("the upstream was queried over %s", l.Transport)
		}
	}
}

// build compiles a client in C.
func build(t *testing.T, source string, compiler ...string) string {
	t.Helper()
	labtest.NeedTool(t, compiler[0])
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(source, ".c"))
	args := append(slices.Clone(compiler[1:]), "-Wall", "-o", out, filepath.Join("testdata", source))
	if source == "cares.c" {
		args = append(args, "-lcares")
	}
	if text, err := exec.Command(compiler[0], args...).CombinedOutput(); err != nil {
		t.Fatalf("%v %v: %v\n%s", compiler, args, err, text)
	}
	return out
}

// TestLibraries resolves with libraries, with one, two and three nameservers of both families
// in resolv.conf.
func TestLibraries(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	libs := map[string][]string{
		"glibc": {build(t, "libc.c", "gcc")},
		"musl":  {build(t, "libc.c", "musl-gcc", "-static")},
		"go":    nil, // checks the answers itself
	}
	servers := map[string][]string{
		"one": {"8.8.8.8"}, "one 6": {"2001:db8::53"}, "two": {"8.8.8.8", "1.1.1.1"},
		"two mixed": {"2001:db8::53", "9.9.9.9"}, "three mixed": {"1.1.1.1", "2001:db8::54", "192.0.2.53"},
	}
	for lib, args := range libs {
		for which, nameservers := range servers {
			t.Run(lib+"/"+which, func(t *testing.T) {
				cmd := w.ResolvConf(nameservers...)
				if lib == "go" {
					stdout, stderr, status := w.Exec(append(cmd, e2e.Client("go-lookups")...)...)
					if status != 0 || stdout != "ok\n" {
						t.Errorf("status %d: %s%s", status, stdout, stderr)
					}
					return
				}
				stdout, stderr, status := w.Exec(append(append(cmd, args...), "a.example.com", "b.example.com")...)
				for _, name := range []string{"a.example.com", "b.example.com"} {
					if !strings.Contains(stdout, name+" ") || strings.Count(stdout, e2e.Sealed4) != 2 || strings.Count(stdout, e2e.Sealed6) != 2 {
						t.Errorf("status %d: %s%s", status, stdout, stderr)
					}
				}
			})
		}
	}
	t.Run("c-ares", func(t *testing.T) {
		stdout, stderr, status := w.Exec(build(t, "cares.c", "gcc"), "8.8.8.8,1.1.1.1,2001:db8::53", "a.example.com", "b.example.com")
		if status != 0 || strings.Count(stdout, e2e.Sealed4) != 2 || strings.Count(stdout, e2e.Sealed6) != 2 {
			t.Errorf("status %d: %s%s", status, stdout, stderr)
		}
	})
}

// socketClients are clients of package client, with the nameservers that they query.
var socketClients = [][]string{
	{"four", "8.8.8.8", "8.8.4.4", "1.1.1.1", "9.9.9.9"},
	{"connected", "8.8.8.8", "1.1.1.1", "8.8.8.8"},
	{"connected", "2001:db8::53", "2001:db8::54"},
	{"mapped", "8.8.8.8", "1.1.1.1"},
	{"pipelined", "8.8.8.8", "2001:db8::53"},
	{"unspec", "8.8.8.8"},
	{"many", "8.8.8.8"},
	{"edns", "8.8.8.8", "2001:db8::53"},
}

// TestSockets sends queries in ways that few programs do.
func TestSockets(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	for _, tc := range socketClients {
		t.Run(strings.Join(tc, " "), func(t *testing.T) {
			stdout, stderr, status := w.Exec(e2e.Client(tc[0], tc[1:]...)...)
			if status != 0 || stdout != "ok\n" {
				t.Errorf("status %d: %s%s", status, stdout, stderr)
			}
		})
	}
}

// TestBoundToInterface checks that queries that the hooks cannot redirect to the listener get
// no answer, and are not sent in plain DNS.
func TestBoundToInterface(t *testing.T) {
	w := newWorld(t)
	w.Watch()
	if stdout, stderr, status := w.Exec(e2e.Client("bound", "8.8.8.8")...); status != 0 || stdout != "ok\n" {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
}

// TestRunClients runs the clients of exec's tests in a container behind a masquerading bridge
// whose cgroup `run` seals.
func TestRunClients(t *testing.T) {
	w := newWorld(t)
	container := labtest.Containers(t, w.Lab, w.Host, "one")[0]
	g := w.Cgroup("container")
	p := w.Start("msg=sealed", w.RunArgs(g)...)
	w.Watch()
	run := func(args ...string) (string, string, int) {
		t.Helper()
		cmd := container.Command(t.Context(), g, args[0], args[1:]...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Logf("%v: %v", args, err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	runRealClients(t, run)
	for _, tc := range socketClients {
		t.Run(strings.Join(tc, " "), func(t *testing.T) {
			if stdout, stderr, status := run(e2e.Client(tc[0], tc[1:]...)...); status != 0 || stdout != "ok\n" {
				t.Errorf("status %d: %s%s", status, stdout, stderr)
			}
		})
	}
	for _, nameservers := range [][]string{{"8.8.8.8"}, {"2001:db8::53", "9.9.9.9"}} {
		t.Run("libraries "+strings.Join(nameservers, " "), func(t *testing.T) {
			conf := w.ResolvConf(nameservers...)
			stdout, stderr, status := run(append(conf, e2e.Client("go-lookups")...)...)
			if status != 0 || stdout != "ok\n" {
				t.Errorf("Go: status %d: %s%s", status, stdout, stderr)
			}
			stdout, stderr, status = run(append(conf, "getent", "ahosts", "libc.example.com")...)
			if status != 0 || !strings.Contains(stdout, e2e.Sealed4) || !strings.Contains(stdout, e2e.Sealed6) {
				t.Errorf("getent: status %d: %s%s", status, stdout, stderr)
			}
		})
	}
	w.Stop(p)
	w.NothingLeft()
}
