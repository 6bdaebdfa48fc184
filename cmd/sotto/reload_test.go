// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
)

// server is a DNS over TLS server on loopback that answers every query with one address, and
// delays some answers.
type server struct {
	*dnstest.Server
	spec   string // as in a configuration
	answer string
}

func startServer(t *testing.T, ca *dnstest.CA, answer string) *server {
	t.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.MustParseAddr(answer)}})
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	handler := dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		if n.Add(1)%8 == 0 { // so that some queries are always in flight
			return dnstest.Delay(300*time.Millisecond, zone).Answer(r)
		}
		return zone.Answer(r)
	})
	srv, addr := e2e.ServeLoopback(t, ca, handler)
	// All its goroutines run when it has accepted a connection.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	e2e.Eventually(t, "a server to accept", func() bool { return srv.Stats().Conns > 0 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	e2e.Eventually(t, "the server to close the connection", func() bool { return srv.Stats().Open == 0 })
	return &server{srv, addr + "#" + e2e.UpstreamName, answer}
}

// serving is `sotto serve` in this process.
type serving struct {
	t       *testing.T
	config  string // path of its configuration
	control string
	addr    string

	mu  sync.Mutex
	out bytes.Buffer
}

func (s *serving) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *serving) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// noUpstream selects an upstream that does not exist: no test may query the default ones.
const noUpstream = "upstream = [\"127.0.0.1:1\"]\n"

// configure writes the configuration for the next reload. text starts at the third line.
func (s *serving) configure(text string) {
	s.t.Helper()
	head := fmt.Sprintf("control = %q\n", s.control)
	if strings.HasPrefix(text, "upstream = ") || strings.Contains(text, "\nupstream = ") {
		head += "\n"
	} else {
		head += noUpstream
	}
	e2e.WriteFile(s.t, s.config, head+text)
}

var answering = regexp.MustCompile(`msg=answering address=(\S+)`)

// startServing runs `sotto serve` until the function that it returns is called.
func startServing(t *testing.T, text string) (s *serving, stop func()) {
	t.Helper()
	dir := t.TempDir()
	s = &serving{t: t, config: filepath.Join(dir, "sotto.toml"), control: filepath.Join(dir, "control.sock")}
	s.configure(text)
	return s, s.start()
}

// start runs `sotto serve` with the configuration of s until the function that it returns is
// called.
func (s *serving) start() (stop func()) {
	t := s.t
	t.Helper()
	logged := len(s.log())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	e := &env{stdin: strings.NewReader(""), stdout: s, stderr: s, getenv: func(string) string { return "" }}
	go func() { done <- e.main(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--config", s.config}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if status := <-done; status != 0 {
			t.Errorf("serve: status %d", status)
		}
		if t.Failed() {
			t.Logf("serve wrote:\n%s", s.log())
		}
	})
	t.Cleanup(stop)
	e2e.Eventually(t, "serve to listen", func() bool {
		m := answering.FindStringSubmatch(s.log()[logged:])
		if m != nil {
			s.addr = m[1]
		}
		_, err := os.Lstat(s.control)
		return m != nil && err == nil
	})
	return stop
}

// ask queries a name and returns the address in the answer, or the response code.
func (s *serving) ask(proto, name string) (string, error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	c := dns.Client{Net: proto, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(m, s.addr)
	if err != nil {
		return "", err
	}
	if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
		return dns.RcodeToString[r.Rcode], nil
	}
	return r.Answer[0].(*dns.A).A.String(), nil
}

// startQueries sends queries for new names over UDP and TCP until stop is called. Half of the
// names are below other.example. Each query has to get one of the answers.
func startQueries(t *testing.T, s *serving, answers ...string) (asked *atomic.Int64, stop func()) {
	t.Helper()
	var load sync.WaitGroup
	asked = &atomic.Int64{}
	end := make(chan struct{})
	for i := range 8 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				proto, below := "udp", "example"
				if n%7 == 0 {
					proto = "tcp"
				}
				if n%2 == 0 {
					below = "other.example"
				}
				got, err := s.ask(proto, fmt.Sprintf("n%d-%d.%s", i, n, below))
				if asked.Add(1); err != nil || !slices.Contains(answers, got) {
					t.Errorf("query %d of client %d over %s: %q, %v", n, i, proto, got, err)
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { close(end); load.Wait() })
	t.Cleanup(stop)
	return asked, stop
}

// TestReload changes the configuration many times under load, by signal and by the control
// socket, to valid and invalid ones. No query is lost or fails, each is answered by one of
// the configurations, and no resources of the old ones are left.
func TestReload(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	a, b := startServer(t, ca, "192.0.2.1"), startServer(t, ca, "192.0.2.2")
	// A rule selects the other group for names below other.example.
	config := func(first, second *server) string {
		return fmt.Sprintf("ca-file = %q\nupstream = [%q]\n[[group]]\nname = \"other\"\nca-file = %q\nupstream = [%q]\npolicy = \"random\"\n"+
			"[[rule]]\nname = \"other.example\"\nuse = \"other\"\n", caFile, first.spec, caFile, second.spec)
	}
	valid := []string{config(a, b), config(b, a)}
	invalid := []string{"cache-mib = [", "[[rule]]\nuse = \"nobody\"\n", "ca-file = \"/nowhere.pem\"\n", "max-tcp = 7\n" + valid[0]}

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP) // makes the runtime start its goroutine for signals, which stays
	signal.Stop(hup)
	before := runtime.NumGoroutine()
	s, stop := startServing(t, valid[0])
	for _, name := range []string{"warm.example", "warm.other.example"} {
		if got, err := s.ask("udp", name); err != nil || got == "SERVFAIL" {
			t.Fatalf("%s: %s, %v", name, got, err)
		}
	}
	atStart := runtime.NumGoroutine()

	asked, stopQueries := startQueries(t, s, a.answer, b.answer)
	reloads := 0
	for i := range 20 {
		quota := asked.Load() + 150
		e2e.Eventually(t, "queries between two changes", func() bool { return asked.Load() >= quota || t.Failed() })
		s.configure(invalid[i%len(invalid)])
		if stdout, stderr, status := call(t, "reload", "--control", s.control); status != exitFailure || stdout != "" || stderr == "" {
			t.Errorf("an invalid configuration: status %d, %q %q", status, stdout, stderr)
		}
		s.configure(valid[(i+1)%2])
		if i%2 == 0 {
			if stdout, stderr, status := call(t, "reload", "--config", s.config); status != 0 || stdout != "reloaded\n" || stderr != "" {
				t.Errorf("reload %d: status %d, %q %q", i, status, stdout, stderr)
			}
		} else if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads++
		e2e.Eventually(t, "the new configuration", func() bool { return strings.Count(s.log(), "msg=reloaded") >= reloads })
		// From now on the new configuration is used.
		want := []*server{a, b}[(i+1)%2].answer
		if got, err := s.ask("udp", fmt.Sprintf("after-%d.example", i)); err != nil || got != want {
			t.Errorf("after reload %d: %s, %v: want %s", i, got, err, want)
		}
	}
	stopQueries()
	if n := strings.Count(s.log(), "level=ERROR"); n != reloads {
		t.Errorf("%d errors in the log: want one for each of the %d invalid configurations", n, reloads)
	}
	t.Logf("%d queries during %d reloads", asked.Load(), reloads)

	// One connection for each current group, and its goroutines.
	e2e.Eventually(t, "the connections of old groups to be closed", func() bool { return a.Stats().Open <= 2 && b.Stats().Open <= 2 })
	e2e.Eventually(t, "the goroutines of old groups to return", func() bool { return runtime.NumGoroutine() <= atStart+8 })
	stop()
	e2e.Eventually(t, "all goroutines to return", func() bool { return runtime.NumGoroutine() <= before && a.Stats().Open+b.Stats().Open == 0 })
	if _, err := os.Lstat(s.control); !os.IsNotExist(err) {
		t.Errorf("the control socket is left: %v", err)
	}
}

// TestReloadKeepsGroups checks that a reload keeps the connections of a group that did not
// change, and changes the log level.
func TestReloadKeepsGroups(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	a, b := startServer(t, ca, "192.0.2.1"), startServer(t, ca, "192.0.2.2")
	base := fmt.Sprintf("ca-file = %q\nupstream = [%q]\n", caFile, a.spec)
	s, _ := startServing(t, base)
	if got, err := s.ask("udp", "one.example"); err != nil || got != a.answer {
		t.Fatalf("%s, %v", got, err)
	}
	conns := a.Stats().Conns
	reload := func(text, name, want string) {
		t.Helper()
		s.configure(text)
		if _, stderr, status := call(t, "reload", "--control", s.control); status != 0 {
			t.Fatalf("status %d, %q", status, stderr)
		}
		if got, err := s.ask("udp", name); err != nil || got != want {
			t.Errorf("%s: %s, %v: want %s", name, got, err, want)
		}
	}
	other := fmt.Sprintf("[[group]]\nname = \"other\"\nca-file = %q\nupstream = [%q]\n", caFile, b.spec)
	reload(base+other+"[[rule]]\nname = \"two.example\"\nuse = \"other\"\n", "two.example", b.answer)
	// A group with another name and the same settings is the same.
	reload(base+"[[group]]\nname = \"same\"\n"+base+"[[rule]]\nname = \"three.example\"\nuse = \"same\"\n", "three.example", a.answer)
	reload("log-level = \"error\"\n"+base+"[[rule]]\nname = \"four.example\"\nuse = \"refuse\"\n", "four.example", "REFUSED")
	if now := a.Stats().Conns; now != conns {
		t.Errorf("%d connections to a group that did not change: want %d", now, conns)
	}
	lines := strings.Count(s.log(), "\n")
	reload("log-level = \"error\"\n"+base, "five.example", a.answer)
	if now := strings.Count(s.log(), "\n"); now != lines {
		t.Errorf("a success is logged at level error:\n%s", s.log())
	}
	// A change of the file of authorities changes the group.
	e2e.WriteFile(t, caFile, "# another text\n"+string(ca.PEM()))
	reload(base, "six.example", a.answer)
	if now := a.Stats().Conns; now == conns {
		t.Error("the connections were kept with other authorities")
	}
}

// TestReloadReportsReason checks that an invalid configuration is refused with the position
// and the reason, in the log and by `sotto reload`, and that the old one stays in use.
func TestReloadReportsReason(t *testing.T) {
	s, _ := startServing(t, "[[rule]]\nname = \"old.example\"\nuse = \"refuse\"\n")
	for text, want := range map[string]string{
		"cache-mib = \"x\"\n": ":3:13: wrong type of value",
		"cache-mib = [":       ":3:13: toml:",
		"max-waiting = 5\n":   ":3:15: max-waiting: it changed",
		"cache-mib = 0\n":     ":3:13: cache-mib: it changed",
		"[[rule]]\nname = \"new.example\"\nuse = \"no\"\n":        `:5:7: use: unknown group "no"`,
		"[[rule]]\nname = \"new.example\"\nuse = \"plain\"\n":     ":5:7: use: 'sotto serve' does not know",
		"ca-file = \"/nowhere.pem\"\n":                            ":3:11: ca-file: read certificate authorities",
		"log-queries = true\nlog-level = \"debug\"\n":             ":3:15: log-queries: it changed",
		"[[rule]]\nname = \"new.example\"\nuse = \"refuse\"\nx=1": `:6:1: unknown setting "x"`,
	} {
		s.configure(text)
		logged := strings.Count(s.log(), "level=ERROR")
		_, stderr, status := call(t, "reload", "--control", s.control)
		if status != exitFailure || !strings.Contains(stderr, s.config+want) {
			t.Errorf("%q: status %d, %q: want %q", text, status, stderr, want)
		}
		if log := s.log(); strings.Count(log, "level=ERROR") != logged+1 || !strings.Contains(log, filepath.Base(s.config)+want[:3]) {
			t.Errorf("%q: not in the log:\n%s", text, log)
		}
	}
	if got, err := s.ask("udp", "old.example"); err != nil || got != "REFUSED" {
		t.Errorf("the old rule is not in use: %s, %v", got, err)
	}
	// A setting that is no longer in the file has also changed.
	e2e.WriteFile(t, s.config, noUpstream)
	if _, stderr, status := call(t, "reload", "--control", s.control); status != exitFailure || !strings.Contains(stderr, "control: it changed") {
		t.Errorf("status %d, %q", status, stderr)
	}
	if err := os.Remove(s.config); err != nil {
		t.Fatal(err)
	}
	if _, stderr, status := call(t, "reload", "--control", s.control); status != exitFailure || !strings.Contains(stderr, s.config) {
		t.Errorf("without the file: status %d, %q", status, stderr)
	}
}

// TestReloadWithoutProcess checks the errors of `reload` when no process listens.
func TestReloadWithoutProcess(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "control.sock")
	off := filepath.Join(dir, "off.toml")
	e2e.WriteFile(t, off, "control = \"off\"\n")
	for args, want := range map[string]string{
		"reload --control " + sock:            "no Sotto listens on " + sock,
		"reload --config " + off:              "send SIGHUP",
		"reload --config " + dir + "/nowhere": "nowhere",
	} {
		if _, stderr, status := call(t, strings.Fields(args)...); status != exitFailure || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, %q", args, status, stderr)
		}
	}
}
