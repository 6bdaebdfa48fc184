// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// TestPlainWithoutSeal shows that watch can fail: without a seal its capture has every query
// and every reply, over UDP and TCP, of every nameserver of a world.
func TestPlainWithoutSeal(t *testing.T) {
	w := newWorld(t)
	dig := labtest.NeedTool(t, "dig")
	_, plain := w.capturePlain()
	name := func(server, transport string) string {
		return transport + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(server) + ".example.com."
	}
	flags := map[string]string{"udp": "+notcp", "tcp": "+tcp"}
	for _, server := range netlab.Nameservers {
		for transport, flag := range flags {
			out, err := w.host.Command(t.Context(), nil, dig, flag, "+short", "@"+server, name(server, transport)).Output()
			if err != nil || strings.TrimSpace(string(out)) != plain4 {
				t.Errorf("dig %s @%s: %q, %v: want %s", flag, server, out, err, plain4)
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
	{"dig UDP 4", "dig @8.8.8.8 www.example.com", []string{"SERVER: 8.8.8.8#53(8.8.8.8) (UDP)", sealed4}},
	{"dig TCP 4", "dig +tcp @1.1.1.1 www.example.com", []string{"SERVER: 1.1.1.1#53(1.1.1.1) (TCP)", sealed4}},
	{"dig UDP 6", "dig @2001:db8::53 www.example.com AAAA", []string{"SERVER: 2001:db8::53#53(2001:db8::53) (UDP)", sealed6}},
	{"dig TCP 6", "dig +tcp @2001:db8::53 www.example.com AAAA", []string{"SERVER: 2001:db8::53#53(2001:db8::53) (TCP)", sealed6}},
	{"dig DNSSEC", "dig +dnssec @8.8.8.8 www.example.com", []string{"RRSIG", "flags: do"}},
	{"dig long TXT", "dig @8.8.8.8 txt-1500.example.com TXT", []string{"Truncated, retrying in TCP mode", "(TCP)", "MSG SIZE  rcvd: 1"}},
	{"dig longest TXT", "dig +tcp @8.8.8.8 txt-65000.example.com TXT", []string{"MSG SIZE  rcvd: 65"}},
	{"dig HTTPS", "dig @8.8.8.8 www.example.com HTTPS", []string{"HTTPS\t", "NOERROR"}},
	{"dig case", "dig @8.8.8.8 WwW.eXaMpLe.CoM", []string{"WwW.eXaMpLe.CoM."}},
	{"dig NXDOMAIN", "dig @8.8.8.8 nxdomain.example.com", []string{"NXDOMAIN", "SOA"}},
	{"dig cookie", "dig +cookie=0123456789abcdef @8.8.8.8 www.example.com", []string{sealed4}},
	{"dig many servers", "dig a.example.com @8.8.8.8 b.example.com @9.9.9.9 +tcp c.example.com @1.1.1.1", []string{"SERVER: 8.8.8.8#53", "SERVER: 9.9.9.9#53", "SERVER: 1.1.1.1#53"}},
	{"kdig UDP", "kdig @1.1.1.1 www.example.com", []string{"From 1.1.1.1@53(UDP)", sealed4}},
	{"kdig TCP 6", "kdig +tcp @2001:db8::54 www.example.com AAAA", []string{"From 2001:db8::54@53(TCP)", sealed6}},
	{"drill", "drill www.example.com @8.8.8.8", []string{"SERVER: 8.8.8.8", sealed4}},
	{"drill TCP", "drill -t www.example.com @9.9.9.9", []string{"SERVER: 9.9.9.9", sealed4}},
	{"host", "host www.example.com 8.8.8.8", []string{"Address: 8.8.8.8#53", sealed4, sealed6}},
	{"host TCP", "host -T www.example.com 2001:db8::53", []string{"Address: 2001:db8::53#53", sealed4}},
	{"nslookup", "busybox nslookup www.example.com 8.8.8.8", []string{"8.8.8.8:53", sealed4}},
	{"dnspython", "/usr/bin/python3 testdata/clients/dnspython.py 8.8.8.8 www.example.com", []string{"udp " + sealed4, "tcp " + sealed4, "txt ", "https "}},
	{"dnspython 6", "/usr/bin/python3 testdata/clients/dnspython.py 2001:db8::53 www.example.com", []string{"udp " + sealed4, "tcp " + sealed4}},
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
	w.watch()
	runRealClients(t, w.exec)
	for _, l := range w.upstream.Log() {
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
	args := append(slices.Clone(compiler[1:]), "-Wall", "-o", out, filepath.Join("testdata/clients", source))
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
	w.watch()
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
				cmd := w.resolvConf(nameservers...)
				if lib == "go" {
					stdout, stderr, status := w.exec(append(cmd, client("go-lookups")...)...)
					if status != 0 || stdout != "ok\n" {
						t.Errorf("status %d: %s%s", status, stdout, stderr)
					}
					return
				}
				stdout, stderr, status := w.exec(append(append(cmd, args...), "a.example.com", "b.example.com")...)
				for _, name := range []string{"a.example.com", "b.example.com"} {
					if !strings.Contains(stdout, name+" ") || strings.Count(stdout, sealed4) != 2 || strings.Count(stdout, sealed6) != 2 {
						t.Errorf("status %d: %s%s", status, stdout, stderr)
					}
				}
			})
		}
	}
	t.Run("c-ares", func(t *testing.T) {
		stdout, stderr, status := w.exec(build(t, "cares.c", "gcc"), "8.8.8.8,1.1.1.1,2001:db8::53", "a.example.com", "b.example.com")
		if status != 0 || strings.Count(stdout, sealed4) != 2 || strings.Count(stdout, sealed6) != 2 {
			t.Errorf("status %d: %s%s", status, stdout, stderr)
		}
	})
}

// socketClients are the clients of clients_test.go, with the nameservers that they query.
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
	w.watch()
	for _, tc := range socketClients {
		t.Run(strings.Join(tc, " "), func(t *testing.T) {
			stdout, stderr, status := w.exec(client(tc[0], tc[1:]...)...)
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
	w.watch()
	if stdout, stderr, status := w.exec(client("bound", "8.8.8.8")...); status != 0 || stdout != "ok\n" {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
}

// TestExecStatusAndOutput checks that the exit status and output of exec are the command's.
func TestExecStatusAndOutput(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		stdout string
	}{
		{"true", []string{"true"}, 0, ""},
		{"status", []string{"sh", "-c", "exit 42"}, 42, ""},
		{"signal", []string{"sh", "-c", "kill -KILL $$"}, 137, ""},
		{"output", []string{"sh", "-c", "echo out"}, 0, "out\n"},
		{"flags", []string{"echo", "--upstream", "-x"}, 0, "--upstream -x\n"},
		{"not there", []string{"/no/such/program"}, exitNotFound, ""},
		{"not in PATH", []string{"no-such-program"}, exitNotFound, ""},
		{"not a program", []string{"/etc/passwd"}, exitCannotRun, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, status := w.exec(tc.args...)
			if status != tc.status || stdout != tc.stdout {
				t.Errorf("status %d, stdout %q: want %d and %q\n%s", status, stdout, tc.status, tc.stdout, stderr)
			}
			if tc.status < exitCannotRun && stderr != "" {
				t.Errorf("exec wrote to stderr: %q", stderr)
			}
		})
	}
	w.nothingLeft()
}

// TestExecTerminated checks that exec forwards SIGTERM to the command, cleans up when that has
// exited, and kills the processes that the command has left.
func TestExecTerminated(t *testing.T) {
	w := newWorld(t)
	args := append(append([]string{"exec"}, w.upstreamArgs()...), "--", "sh", "-c", "sleep 1000 & echo left $!; trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	p := w.start("ready", args...)
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it did not exit within 20 s of SIGTERM")
	}
	if status := p.cmd.ProcessState.ExitCode(); status != 3 {
		t.Errorf("status %d: want the command's 3\n%s", status, p.log())
	}
	_, pid, _ := strings.Cut(p.log(), "left ")
	pid, _, _ = strings.Cut(pid, "\n")
	// It may be a zombie until the machine's init waits for it.
	if stat, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("process %s still runs, without the seal: %s", pid, stat)
	}
	w.nothingLeft()
}

// TestConcurrentExecs runs several execs concurrently.
func TestConcurrentExecs(t *testing.T) {
	w := newWorld(t)
	w.watch()
	dig := labtest.NeedTool(t, "dig")
	type result struct {
		stdout, stderr string
		status         int
	}
	results := make(chan result)
	const n = 4
	for range n {
		go func() {
			stdout, stderr, status := w.exec("sh", "-c", dig+" +short @8.8.8.8 one.example.com; sleep 1; "+dig+" +short @8.8.8.8 two.example.com")
			results <- result{stdout, stderr, status}
		}()
	}
	for range n {
		if r := <-results; r.status != 0 || r.stdout != sealed4+"\n"+sealed4+"\n" {
			t.Errorf("status %d: %q %q", r.status, r.stdout, r.stderr)
		}
	}
	w.nothingLeft()
}
