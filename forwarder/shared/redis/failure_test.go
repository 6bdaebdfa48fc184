// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
)

// load asks for names that are new to a replica, from several clients, until it is stopped.
type load struct {
	asked, failed atomic.Int64
	stop          func()
}

const loadClients = 8

func startLoad(t *testing.T, r *replica) *load {
	l := &load{}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for c := range loadClients {
		wg.Go(func() {
			client := dns.Client{Timeout: 10 * time.Second}
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				m := query(fmt.Sprintf("n%d-%d.example", c, i), dns.TypeA, false, false)
				reply, _, err := client.Exchange(m, r.at.String())
				l.asked.Add(1)
				if err != nil || reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
					l.failed.Add(1)
					t.Logf("%v %v", err, reply)
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(l.stop)
	return l
}

// more waits until n more queries have been answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	from := l.asked.Load()
	until(t, "queries are answered", func() bool { return l.asked.Load() >= from+n })
}

// TestServerFails: the server is paused, killed, restarted and paused again under load. No query
// fails, a pause costs each client at most one timeout, and after it the server is used again.
func TestServerFails(t *testing.T) {
	s := startServer(t)
	up := newUpstream(t, "group")
	r := startReplica(t, up, options{store: Config{Address: s.at}, timeout: 50 * time.Millisecond})
	r.waitUp(t)
	l := startLoad(t, r)
	l.more(t, 200)
	before := runtime.NumGoroutine()
	for _, round := range []struct {
		what      string
		fail, fix func()
	}{
		{"paused", func() { s.signal(syscall.SIGSTOP) }, func() { s.signal(syscall.SIGCONT) }},
		{"killed", s.kill, s.start},
		{"paused again", func() { s.signal(syscall.SIGSTOP) }, func() { s.signal(syscall.SIGCONT) }},
	} {
		late := r.shared.Stats().Timeouts
		round.fail()
		until(t, "the failure is noticed", func() bool { return !r.shared.Stats().Up })
		l.more(t, 500)
		st := r.shared.Stats()
		if n := st.Timeouts - late; n > loadClients || st.Skipped == 0 || st.Err == nil {
			t.Errorf("%s: %d timeouts of %d clients, %+v", round.what, n, loadClients, st)
		}
		if n := runtime.NumGoroutine(); n > before+2*loadClients {
			t.Errorf("%s: %d goroutines, %d before", round.what, n, before)
		}
		round.fix()
		r.waitUp(t)
		written := r.shared.Stats().Written
		l.more(t, 100)
		until(t, "answers are stored again", func() bool { return r.shared.Stats().Written > written })
	}
	l.stop()
	if n := l.failed.Load(); n != 0 {
		t.Errorf("%d of %d queries failed", n, l.asked.Load())
	}
	t.Logf("%d queries, %+v", l.asked.Load(), r.shared.Stats())
}

// TestUnreachable: with a server that does not exist, and one that accepts connections and is
// silent, queries never wait.
func TestUnreachable(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, at := range map[string]string{"refused": "127.0.0.1:1", "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, newUpstream(t, "group"), options{store: Config{Address: at}})
			until(t, "the probe fails", func() bool { return r.shared.Stats().Err != nil })
			for i := range 50 {
				r.ask(t, query(fmt.Sprintf("n%d.example", i), dns.TypeA, false, false))
			}
			if st := r.shared.Stats(); st.Up || st.Skipped != 50 || st.Timeouts+st.Errors != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestFull: a server without memory that evicts nothing refuses answers. It is still asked.
func TestFull(t *testing.T) {
	s := startServer(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
	up := newUpstream(t, "group")
	r := startReplica(t, up, options{store: Config{Address: s.at}, timeout: time.Second})
	r.waitUp(t)
	r.ask(t, query("one.example", dns.TypeA, false, false))
	until(t, "it is refused", func() bool { return r.shared.Stats().Dropped == 1 })
	r.ask(t, query("two.example", dns.TypeA, false, false))
	if st := r.shared.Stats(); !st.Up || st.Misses != 2 {
		t.Errorf("%+v", st)
	}
}

// TestSecured: a server with TLS, a user with a password and a numbered database works; a wrong
// password, and an authority that is not trusted, do not.
func TestSecured(t *testing.T) {
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{"redis.test"}})
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := dnstest.PEMPair(cert)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{"cert": certPEM, "key": keyPEM, "ca": ca.PEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(at)
	startServer(t, "--tls-port", port, "--tls-cert-file", dir+"/cert", "--tls-key-file", dir+"/key", "--tls-ca-cert-file", dir+"/ca",
		"--tls-auth-clients", "no", "--user", "sotto", "on", ">pass", "~*", "+getrange", "+set", "+ping", "+select")
	good := Config{Address: at, Username: "sotto", Password: "pass", Database: 3, TLS: &tls.Config{ServerName: "redis.test", RootCAs: ca.Pool()}}
	r := startReplica(t, newUpstream(t, "group"), options{store: good, timeout: time.Second})
	r.waitUp(t)
	r.ask(t, query("www.example", dns.TypeA, false, false))
	until(t, "it is stored", func() bool { return r.shared.Stats().Written == 1 })
	for name, change := range map[string]func(*Config){
		"a wrong password":    func(c *Config) { c.Password = "no" },
		"another name":        func(c *Config) { c.TLS = &tls.Config{ServerName: "other.test", RootCAs: ca.Pool()} },
		"an unknown CA":       func(c *Config) { c.TLS = &tls.Config{ServerName: "redis.test"} },
		"no such database":    func(c *Config) { c.Database = 99 },
		"TLS without its use": func(c *Config) { c.TLS = nil },
	} {
		cfg := good
		change(&cfg)
		bad := startReplica(t, newUpstream(t, "group"), options{store: cfg})
		until(t, name, func() bool { return bad.shared.Stats().Err != nil })
		if st := bad.shared.Stats(); st.Up {
			t.Errorf("%s: it works", name)
		} else {
			t.Logf("%s: %v", name, st.Err)
		}
	}
}
