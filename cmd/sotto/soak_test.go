// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
	"sotto/internal/e2e"
	"sotto/internal/e2e/client"
)

// soakFor sets the duration of TestSoak; ten minutes are useful.
const soakFor = "SOTTO_SOAK"

// restarting is a DNS over TLS server that is stopped and started at one address.
type restarting struct {
	t    *testing.T
	cfg  dnstest.Config
	at   netip.AddrPort
	srv  *dnstest.Server
	stop func()
}

func newRestarting(t *testing.T, ca *dnstest.CA) *restarting {
	t.Helper()
	zone, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(dnstest.CertOptions{Names: []string{e2e.UpstreamName}})
	if err != nil {
		t.Fatal(err)
	}
	r := &restarting{t: t, cfg: dnstest.Config{Handler: zone, Certificate: cert}, at: netip.MustParseAddrPort("127.0.0.1:0")}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *restarting) start() {
	l, err := dnstest.Listen(r.at)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.at = netip.MustParseAddrPort(l.Addr().String())
	cfg := r.cfg
	cfg.TLS = []net.Listener{l}
	if r.srv, err = dnstest.New(cfg); err != nil {
		r.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	srv := r.srv
	go func() { done <- srv.Serve(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
}

func (r *restarting) spec() string { return r.at.String() + "#" + e2e.UpstreamName }

// soaker is a kind of client. It sends queries until stop is closed.
type soaker func(t *testing.T, addr string, stop <-chan struct{}, asked *atomic.Int64)

// soakNames returns a random name: a cached one, a new one, one that does not exist, or one
// with a long answer.
func soakNames(rng *rand.Rand) (name string, typ uint16) {
	switch n := rng.IntN(20); {
	case n < 10:
		return fmt.Sprintf("hot-%d.example.", rng.IntN(200)), dns.TypeA
	case n < 17:
		return fmt.Sprintf("cold-%d.example.", rng.Int64()), dns.TypeAAAA
	case n < 18:
		return fmt.Sprintf("nxdomain-%d.example.", rng.IntN(1000)), dns.TypeA
	case n < 19:
		return "txt-20000.example.", dns.TypeTXT
	}
	return fmt.Sprintf("ttl-%d.example.", 1+rng.IntN(3)), dns.TypeA
}

// checkSoaked checks that a query was answered.
func checkSoaked(t *testing.T, r *dns.Msg, err error) {
	if err != nil {
		t.Errorf("no answer: %v", err)
	} else if r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError {
		t.Errorf("%s for %s: %v", dns.RcodeToString[r.Rcode], r.Question[0].Name, r.IsEdns0())
	}
}

// soakers are clients of every kind.
var soakers = map[string]soaker{
	// A socket per query, over UDP, and over TCP if the answer is truncated.
	"stubs": func(t *testing.T, addr string, stop <-chan struct{}, asked *atomic.Int64) {
		rng := rand.New(rand.NewPCG(1, rand.Uint64()))
		udp, tcp := dns.Client{Timeout: 10 * time.Second}, dns.Client{Net: "tcp", Timeout: 10 * time.Second}
		for client.Running(stop) && !t.Failed() {
			name, typ := soakNames(rng)
			m := new(dns.Msg).SetQuestion(name, typ)
			m.SetEdns0(1232, rng.IntN(2) == 0)
			r, _, err := udp.Exchange(m, addr)
			if err == nil && r.Truncated {
				r, _, err = tcp.Exchange(m, addr)
			}
			checkSoaked(t, r, err)
			asked.Add(1)
		}
	},
	// Many queries on one connection, then on another one.
	"pipelines": func(t *testing.T, addr string, stop <-chan struct{}, asked *atomic.Int64) {
		rng := rand.New(rand.NewPCG(2, 0))
		for client.Running(stop) && !t.Failed() {
			c, err := dns.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			n := 1 + rng.IntN(50)
			for range n {
				name, typ := soakNames(rng)
				if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, typ)); err != nil {
					t.Error(err)
				}
			}
			for range n {
				r, err := c.ReadMsg()
				checkSoaked(t, r, err)
				asked.Add(1)
			}
			c.Close()
		}
	},
	// Malformed queries, and clients that close before the reply.
	"malformed": func(t *testing.T, addr string, stop <-chan struct{}, _ *atomic.Int64) {
		rng := rand.New(rand.NewPCG(3, 0))
		for client.Running(stop) && !t.Failed() {
			network := []string{"udp", "tcp"}[rng.IntN(2)]
			c, err := net.Dial(network, addr)
			if err != nil {
				t.Error(err)
				return
			}
			name, typ := soakNames(rng)
			msg, err := new(dns.Msg).SetQuestion(name, typ).Pack()
			if err != nil {
				t.Error(err)
			}
			for range rng.IntN(4) {
				msg[rng.IntN(len(msg))] ^= byte(1 + rng.IntN(255))
			}
			_, _ = c.Write(msg[:rng.IntN(len(msg)+1)])
			if rng.IntN(2) == 0 {
				time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
			}
			c.Close()
		}
	},
}

// openFiles returns the number of open descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestSoak runs clients of every kind while the two upstreams are restarted in turn, never
// both at once, and the configuration is reloaded at times. Every query is answered, and at
// the end there are as many goroutines, descriptors and connections as at the start.
func TestSoak(t *testing.T) {
	length := 10 * time.Second
	if text := os.Getenv(soakFor); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakFor, err)
		}
	} else if testing.Short() {
		length = 4 * time.Second
	}
	ca, err := dnstest.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	e2e.WriteFile(t, caFile, string(ca.PEM()))
	ups := []*restarting{newRestarting(t, ca), newRestarting(t, ca)}
	s, _ := startServing(t, fmt.Sprintf("cache-mib = 8\nca-file = %q\nupstream = [%q, %q]\n", caFile, ups[0].spec(), ups[1].spec()))

	asked := &atomic.Int64{}
	load := func(d time.Duration, restart bool) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, run := range soakers {
			for range 2 {
				wg.Go(func() { run(t, s.addr, stop, asked) })
			}
		}
		until := time.Now().Add(d)
		for i := 0; time.Now().Before(until) && !t.Failed(); i++ {
			time.Sleep(500 * time.Millisecond)
			if !restart {
				continue
			}
			up := ups[i%len(ups)]
			up.stop()
			time.Sleep(time.Duration(200+100*(i%9)) * time.Millisecond)
			up.start()
			time.Sleep(1200 * time.Millisecond) // so that it is used again before the other one stops
			if i%4 == 3 {
				if _, stderr, status := call(t, "reload", "--control", s.control); status != 0 {
					t.Errorf("reload: %s", stderr)
				}
			}
		}
		close(stop)
		wg.Wait()
	}
	open := func() int64 { return ups[0].srv.Stats().Open + ups[1].srv.Stats().Open }

	load(time.Second, false) // allocates what is allocated once
	idle := 3 * time.Second
	if length >= time.Minute {
		idle = 30 * time.Second // until idle goroutines return
	}
	time.Sleep(idle)
	runtime.GC()
	goroutines, files, conns := runtime.NumGoroutine(), openFiles(t), open()
	load(length, true)
	t.Logf("%d queries; before: %d goroutines, %d descriptors, %d connections", asked.Load(), goroutines, files, conns)

	// A second connection, idle goroutines and connections of idle clients are kept for a
	// while. The resources of one more idle upstream are allowed.
	const few = 8
	deadline := time.Now().Add(90 * time.Second)
	for runtime.NumGoroutine() > goroutines+2*few || openFiles(t) > files+few || open() > conns+2 {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("after: %d goroutines, %d descriptors, %d connections\n%s", runtime.NumGoroutine(), openFiles(t), open(), buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("after: %d goroutines, %d descriptors, %d connections", runtime.NumGoroutine(), openFiles(t), open())
	var m runtime.MemStats
	runtime.GC()
	if runtime.ReadMemStats(&m); m.HeapAlloc > 96<<20 {
		t.Errorf("%d MiB of heap are in use", m.HeapAlloc>>20)
	}
}
