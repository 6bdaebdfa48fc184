// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestCancel: a caller that gives up leaves nothing behind, and a late reply
// does no harm.
func TestCancel(t *testing.T) {
	z := zone(t)
	hold := make(chan struct{})
	sw := dnstest.NewSwitch(dnstest.Hold(hold, z))
	s := serve(t, sw, nil)
	g := group(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const n = 50
	for range n {
		wg.Go(func() {
			if _, err := askCtx(ctx, t, g, "www.example."); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want canceled", err)
			}
		})
	}
	eventually(t, "all are in flight", func() bool { return s.Stats().Queries() == n })
	cancel()
	wg.Wait()
	if st := g.Stats().Servers[0]; st.InFlight != 0 || st.LastError != "" {
		t.Errorf("stats %+v, want nothing in flight, and no failure", st)
	}
	sw.Set(z)
	close(hold)
	eventually(t, "the late replies come", func() bool { return g.Stats().Servers[0].Late == n })
	mustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 1 {
		t.Errorf("%d connections, want the one", st.Conns)
	}
	if st := g.Stats().Servers[0]; st.Strays != 0 || st.Abandoned != n || st.Failed != 0 {
		t.Errorf("stats %+v, want %d abandoned, of which none is a stray", st, n)
	}
}

// TestNetworkChanged: connections are opened anew, queries in flight are not
// lost, failures are forgotten.
func TestNetworkChanged(t *testing.T) {
	z := zone(t)
	hold := make(chan struct{})
	defer close(hold)
	sw := dnstest.NewSwitch(z)
	s := serve(t, sw, nil)
	g := group(t, s)
	mustAsk(t, g, "www.example.")
	sw.Set(dnstest.Hold(hold, z))
	done := make(chan error, 1)
	go func() {
		_, err := ask(t, g, "www.example.")
		done <- err
	}()
	eventually(t, "it is in flight", func() bool { return s.Stats().Queries() == 2 })
	sw.Set(z)
	g.NetworkChanged()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Conns != 2 {
		t.Errorf("%d connections, want 2", st.Conns)
	}
	g.endpoints[0].failed(time.Now(), errTimeout)
	g.NetworkChanged()
	if st := g.Stats().Servers[0]; st.Rest != 0 || st.LastError != "" {
		t.Errorf("stats %+v, want a fresh start", st)
	}
}

// TestNetworkChangedWhileDialling: a dial over the old network is given up, and
// those who wait for it get another.
func TestNetworkChangedWhileDialling(t *testing.T) {
	var accepted atomic.Int32
	s := serve(t, zone(t), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool { return accepted.Add(1) > 1 } // the first hangs
	})
	g := group(t, s)
	done := make(chan error, 1)
	go func() {
		_, err := ask(t, g, "www.example.")
		done <- err
	}()
	eventually(t, "it dials", func() bool { return accepted.Load() == 1 })
	g.NetworkChanged()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRunWarms: the first connection is opened before any query, and again when
// the server closes it, with a resumed session.
func TestRunWarms(t *testing.T) {
	s := serve(t, zone(t), nil)
	other := serve(t, zone(t), nil)
	g := group(t, s, other)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	eventually(t, "a connection is open", func() bool { return g.Stats().Servers[0].Conns == 1 })
	mustAsk(t, g, "www.example.")
	poolOf(g).setLastWarm(time.Time{}) // as if it had been open for a while
	s.EndConns(dnstest.Close)
	eventually(t, "another one is", func() bool { return s.Stats().Handshakes == 2 && g.Stats().Servers[0].Conns == 1 })
	mustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 2 || st.Resumed != 1 || st.Queries() != 2 {
		t.Errorf("server saw %+v", st)
	}
	if n := other.Stats().Conns; n != 0 {
		t.Errorf("%d connections to a server that nobody asked", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestRunWarmsAll: where any server may be the first to be asked, all are warm.
func TestRunWarmsAll(t *testing.T) {
	cfg := hasty(serve(t, zone(t), nil), serve(t, zone(t), nil))
	cfg.Policy = Random
	g := groupOf(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	eventually(t, "both are warm", func() bool {
		st := g.Stats().Servers
		return st[0].Conns == 1 && st[1].Conns == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func (p *pool) setLastWarm(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastWarm = at
}

// TestSweep: what nobody uses is closed, a second connection sooner.
func TestSweep(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, dnstest.Hold(release, zone(t)), nil)
	g := group(t, s)
	var wg sync.WaitGroup
	for range 2 * busyLoad {
		wg.Go(func() { _, _ = ask(t, g, "www.example.") })
	}
	eventually(t, "two connections are open", func() bool { return g.Stats().Servers[0].Conns == 2 })
	p := poolOf(g)
	p.sweep(time.Now().Add(time.Hour))
	if n := g.Stats().Servers[0].Conns; n == 0 {
		t.Error("a connection with queries in flight was closed")
	}
	close(release)
	wg.Wait()
	p.sweep(time.Now().Add(extraIdle + time.Second))
	if n := g.Stats().Servers[0].Conns; n != 1 {
		t.Errorf("%d connections after a while, want 1", n)
	}
	p.sweep(time.Now().Add(DefaultWarmTime + time.Second))
	if n := g.Stats().Servers[0].Conns; n != 0 {
		t.Errorf("%d connections after a long while, want none", n)
	}
	mustAsk(t, g, "www.example.")
}

// TestClose leaves no goroutine, whatever is going on.
func TestClose(t *testing.T) {
	s := serve(t, dnstest.Silent(), nil)
	hung := serve(t, dnstest.Silent(), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool { t.Cleanup(func() { nc.Close() }); return false }
	})
	g, err := New(Config{
		Servers: []Server{{Addr: hung.Addr(), Name: testName}, {Addr: s.Addr(), Name: testName}},
		RootCAs: testCA().Pool(), AttemptTimeout: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() {
			_, err := ask(t, g, "www.example.")
			errs <- err
		}()
	}
	eventually(t, "they wait", func() bool { return s.Stats().Queries() > 0 })
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want that it is closed", err)
		}
	}
	_, err = ask(t, g, "www.example.")
	wantEDE(t, err, wire.EDEOther, "the upstreams are closed")
	if left := methodsRunning(); left != "" {
		t.Errorf("goroutines are left:\n%s", left)
	}
	if err := g.Close(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// methodsRunning has the stacks of the goroutines that run one of the package's
// methods, which all of its goroutines do.
func methodsRunning() string {
	buf := make([]byte, 1<<20)
	var left []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "sotto/forwarder/upstream.(*") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// TestMaxConns: however many ask at once, no more sockets are made.
func TestMaxConns(t *testing.T) {
	var sockets atomic.Int32
	s := serve(t, zone(t), nil)
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: testName}},
		Control: func(network, address string, c syscall.RawConn) error {
			if network != "tcp4" || address != s.Addr().String() {
				t.Errorf("control of %s %s", network, address)
			}
			sockets.Add(1)
			return nil
		},
	})
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() { _, _ = ask(t, g, "delay-20.example.") })
	}
	wg.Wait()
	if n := sockets.Load(); n < 1 || n > 2 {
		t.Errorf("%d sockets, want at most 2", n)
	}
}

func TestControlRefuses(t *testing.T) {
	s := serve(t, zone(t), nil)
	no := errors.New("no cookie for you")
	g := groupOf(t, Config{
		Servers: []Server{{Addr: s.Addr(), Name: testName}},
		Control: func(string, string, syscall.RawConn) error { return no },
	})
	_, err := ask(t, g, "www.example.")
	wantEDE(t, err, wire.EDENetworkError, no.Error())
	if !errors.Is(err, no) {
		t.Errorf("the cause is lost in %v", err)
	}
	if n := s.Stats().Conns; n != 0 {
		t.Errorf("%d connections without the hook's consent", n)
	}
}
