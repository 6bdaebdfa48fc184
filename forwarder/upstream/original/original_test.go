// SPDX-License-Identifier: Apache-2.0

package original

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/served"
	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// lab is an Upstream whose nameservers are addresses of loopback.
type lab struct {
	t        *testing.T
	u        *Upstream
	fallback atomic.Int64 // queries that it got
	known    map[netip.Addr]upstream.Server
}

// errFallback is the result of the fallback.
var errFallback = errors.New("asked the fallback")

func (l *lab) Exchange(context.Context, []byte, time.Time) ([]byte, error) {
	l.fallback.Add(1)
	return nil, errFallback
}

// newLab makes a lab. change, unless nil, changes its configuration.
func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	l := &lab{t: t, known: map[netip.Addr]upstream.Server{}}
	cfg := Config{
		Identity: "id", Discovery: WithTLS, Fallback: l, loopback: true,
		known: func(a netip.Addr) (upstream.Server, bool) { s, ok := l.known[a]; return s, ok },
		Group: upstream.Config{RootCAs: servertest.CA().Pool},
	}
	if change != nil {
		change(&cfg)
	}
	u, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.u = u
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// serve runs a DNS over TLS server at an address, with a certificate for other addresses.
func serve(t *testing.T, at string, port uint16, valid ...string) *dnstest.Server {
	t.Helper()
	var ips []netip.Addr
	for _, a := range valid {
		ips = append(ips, netip.MustParseAddr(a))
	}
	return servertest.ServeAt(t, netip.AddrPortFrom(netip.MustParseAddr(at), port), servertest.Zone(t), func(cfg *dnstest.Config) {
		cfg.Certificate = servertest.Issue(t, dnstest.CertOptions{IPs: ips})
		cfg.LogQueries = 100
	})
}

// ask sends the query of a client that asked a nameserver, and returns the server that answered.
func (l *lab) ask(nameserver string, name string) (string, error) {
	ctx := &served.Context{Context: l.t.Context()}
	n := l.u.For(netip.AddrPortFrom(netip.MustParseAddr(nameserver), plainPort))
	_, err := n.Exchange(ctx, servertest.Query(name, dnstest.TypeA), time.Now().Add(8*time.Second))
	return ctx.Server(), err
}

// stats returns the statistics of a nameserver.
func (l *lab) stats(nameserver string) Stats {
	l.t.Helper()
	s, ok := l.u.Find(netip.AddrPortFrom(netip.MustParseAddr(nameserver), plainPort))
	if !ok {
		l.t.Fatalf("%s is not known", nameserver)
	}
	return s
}

// TestNameservers: each nameserver answers its own clients where it can, the fallback others.
func TestNameservers(t *testing.T) {
	a := serve(t, "127.0.7.1", 0, "127.0.7.1")
	port := a.Addr().Port()
	serve(t, "127.0.7.2", port, "127.0.7.9") // with a certificate of another address
	k := servertest.ServeAt(t, netip.MustParseAddrPort("127.0.7.4:0"), servertest.Zone(t), nil)
	l := newLab(t, func(cfg *Config) { cfg.port = port })
	l.known[netip.MustParseAddr("127.0.7.4")] = upstream.Server{Addr: k.Addr(), Name: servertest.Name}
	for range 3 {
		for nameserver, want := range map[string]string{
			"127.0.7.1": a.Addr().String(), "127.0.7.2": "", "127.0.7.3": "", "127.0.7.4": k.Addr().String() + "#" + servertest.Name, "fe80::1": "",
		} {
			got, err := l.ask(nameserver, "www.example.")
			if got != want || (want == "") != errors.Is(err, errFallback) {
				t.Errorf("%s: answered by %q, %v, want %q", nameserver, got, err, want)
			}
		}
	}
	for nameserver, want := range map[string][3]string{
		"127.0.7.1": {StateEncrypted, "tls", ""}, "127.0.7.4": {StateEncrypted, "known", ""},
		"127.0.7.2": {StateFallback, "", "its certificate is for 127.0.7.9"}, "127.0.7.3": {StateFallback, "", "connection refused"},
		"fe80::1": {StateFallback, "", "its address has a meaning only where the client is"},
	} {
		s := l.stats(nameserver)
		if s.State != want[0] || s.How != want[1] || !strings.Contains(s.Error, want[2]) || s.Queries != 3 || s.Fallbacks != map[string]uint64{StateFallback: 3}[want[0]] ||
			(s.State == StateFallback) != (s.Retry > 0) {
			t.Errorf("%s: %+v, want %v", nameserver, s, want)
		}
	}
	if n := len(a.Log()); n != 1+3 { // the query for the root and those of clients
		t.Errorf("the server got %d queries: %v", n, a.Log())
	}
	if len(l.u.Stats().Servers) != 2 {
		t.Errorf("open: %+v", l.u.Stats())
	}
}

// TestScope: scopes differ for each group and nameserver, are stable, and are not too long.
func TestScope(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"", "work", strings.Repeat("x", 64)} {
		l := newLab(t, func(cfg *Config) { cfg.Name, cfg.Mark = name, "~" })
		for _, addr := range []string{"192.0.2.1:53", "192.0.2.1:5353", "[2001:db8:1111:2222:3333:4444:5555:6666]:53", "[2001:db8::1]:53"} {
			n := l.u.For(netip.MustParseAddrPort(addr))
			scope := n.Scope()
			if other, ok := seen[scope]; ok || len(scope) > maxScope || n.Identity() != "id" || len(name) == 64 && !strings.HasSuffix(scope, "~") {
				t.Errorf("%s of %q: scope %q, as %s", addr, name, scope, other)
			}
			seen[scope] = addr + name
			if again := l.u.For(netip.MustParseAddrPort(addr)); again != n {
				t.Errorf("%s: another nameserver", addr)
			}
		}
	}
	l := newLab(t, nil)
	at := netip.MustParseAddrPort("192.0.2.1:53")
	l.u.For(at)
	if n := testing.AllocsPerRun(100, func() { l.u.For(at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestOneDiscovery: concurrent queries share one discovery, and a change of the network repeats a
// failed one.
func TestOneDiscovery(t *testing.T) {
	a := serve(t, "127.0.7.11", 0, "127.0.7.12") // not for its own address
	l := newLab(t, func(cfg *Config) { cfg.port = a.Addr().Port() })
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := l.ask("127.0.7.11", fmt.Sprintf("n%d.example.", i)); !errors.Is(err, errFallback) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := a.Stats().Conns; n != 1 {
		t.Errorf("%d connections", n)
	}
	a.SetCertificate(servertest.Issue(t, dnstest.CertOptions{IPs: []netip.Addr{netip.MustParseAddr("127.0.7.11")}}))
	if _, err := l.ask("127.0.7.11", "www.example."); !errors.Is(err, errFallback) {
		t.Errorf("the failure is not remembered: %v", err)
	}
	l.u.NetworkChanged()
	if _, err := l.ask("127.0.7.11", "www.example."); err != nil {
		t.Errorf("after the network changed: %v", err)
	}
}

// TestDown: when a nameserver's server stops, the fallback gets its queries; without one they fail
// with a reason.
func TestDown(t *testing.T) {
	for _, with := range []bool{true, false} {
		a := serve(t, "127.0.7.21", 0, "127.0.7.21")
		l := newLab(t, func(cfg *Config) {
			cfg.port = a.Addr().Port()
			if !with {
				cfg.Fallback = nil
			}
		})
		if _, err := l.ask("127.0.7.21", "www.example."); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if !with {
			n := l.u.For(netip.MustParseAddrPort("127.0.7.21:53"))
			_, err := n.Exchange(t.Context(), servertest.Query("www.example.", dnstest.TypeA), time.Now().Add(time.Second))
			if err == nil || errors.Is(err, errFallback) {
				t.Errorf("without a fallback: %v", err)
			}
			_, err = l.ask("127.0.7.22", "www.example.")
			var e *transport.Error
			if !errors.As(err, &e) || e.Code != 23 || !strings.Contains(e.EDE().Text, "nameserver 127.0.7.22: ") || !strings.Contains(e.EDE().Text, "connection refused") {
				t.Errorf("without a fallback and a server: %v", err)
			}
			continue
		}
		for range maxFailed + 1 {
			if _, err := l.ask("127.0.7.21", "www.example."); !errors.Is(err, errFallback) {
				t.Errorf("%v", err)
			}
		}
		if s := l.stats("127.0.7.21"); s.State != StateFallback || !strings.Contains(s.Error, "does not answer any more") {
			t.Errorf("%+v", s)
		}
	}
}

// TestBound: the nameservers that are remembered are limited, and groups that are not used are
// closed and opened again.
func TestBound(t *testing.T) {
	a := serve(t, "127.0.7.31", 0, "127.0.7.31")
	l := newLab(t, func(cfg *Config) { cfg.port, cfg.Max = a.Addr().Port(), 3 })
	if _, err := l.ask("127.0.7.31", "www.example."); err != nil {
		t.Fatal(err)
	}
	l.u.closeIdle(time.Now().Add(time.Second))
	if s := l.u.Stats(); len(s.Servers) != 0 || l.stats("127.0.7.31").State != StateEncrypted {
		t.Errorf("open: %+v", s)
	}
	if _, err := l.ask("127.0.7.31", "www.example."); err != nil || len(l.u.Stats().Servers) != 1 {
		t.Errorf("%v, %+v", err, l.u.Stats())
	}
	old := l.u.For(netip.MustParseAddrPort("127.0.7.31:53"))
	for i := range 4 {
		if _, err := l.ask(fmt.Sprintf("127.0.8.%d", i), "www.example."); !errors.Is(err, errFallback) {
			t.Error(err)
		}
		if n := len(l.u.Nameservers()); n > 3 {
			t.Errorf("%d nameservers", n)
		}
	}
	if _, err := old.Exchange(t.Context(), servertest.Query("www.example.", dnstest.TypeA), time.Now().Add(time.Second)); !errors.Is(err, errFallback) {
		t.Errorf("a nameserver that was removed: %v", err)
	}
}

// TestCloseDiscovering: closing ends a discovery of a server that does not answer.
func TestCloseDiscovering(t *testing.T) {
	a := serve(t, "127.0.7.41", 0, "127.0.7.41")
	stop := make(chan struct{})
	l := newLab(t, func(cfg *Config) {
		cfg.port, cfg.Discovery = a.Addr().Port(), WithDDR
		cfg.Ask = func(ctx context.Context, _ netip.AddrPort, _ []byte, _ time.Time) ([]byte, error) {
			close(stop)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	done := make(chan error)
	go func() {
		_, err := l.ask("127.0.7.41", "www.example.")
		done <- err
	}()
	<-stop
	if err := l.u.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("answered")
	}
	if _, err := l.ask("127.0.7.42", "www.example."); !errors.Is(err, errFallback) {
		t.Errorf("after Close: %v", err)
	}
}

// TestConcurrent: queries are answered, or fail for a reason, while nameservers are evicted, groups
// closed, and the network changes.
func TestConcurrent(t *testing.T) {
	a := serve(t, "127.0.7.61", 0, "127.0.7.61", "127.0.7.62")
	serve(t, "127.0.7.62", a.Addr().Port(), "127.0.7.61", "127.0.7.62")
	l := newLab(t, func(cfg *Config) { cfg.port, cfg.Max = a.Addr().Port(), 3 })
	stop := make(chan struct{})
	var disturb, wg sync.WaitGroup
	for _, f := range []func(){l.u.NetworkChanged, func() { l.u.closeIdle(time.Now().Add(time.Hour)) }, func() { l.u.Nameservers(); l.u.Stats() }} {
		disturb.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(25 * time.Millisecond):
					f()
				}
			}
		})
	}
	var answered atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for j := range 12 {
				nameserver := []string{"127.0.7.61", "127.0.7.62", "127.0.7.63", fmt.Sprintf("127.0.9.%d", j)}[(i+j)%4]
				server, err := l.ask(nameserver, fmt.Sprintf("n%d-%d.example.", i, j))
				switch {
				case err == nil && strings.HasPrefix(server, nameserver+":"):
					answered.Add(1)
				case err == nil || !errors.Is(err, errFallback):
					t.Errorf("%s: answered by %q, %v", nameserver, server, err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	disturb.Wait()
	if answered.Load() == 0 {
		t.Error("no query was answered by its nameserver")
	}
	for _, n := range *l.u.byAddr.Load() {
		n.mu.Lock()
		if n.busy() {
			t.Errorf("%s has queries in flight", n.addr)
		}
		n.mu.Unlock()
	}
}
