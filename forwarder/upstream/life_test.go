// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// TestCancel: a query that its caller cancels leaves nothing behind, and a late reply does
// no harm.
func TestCancel(t *testing.T) {
	z := servertest.Zone(t)
	hold := make(chan struct{})
	sw := dnstest.NewSwitch(dnstest.Hold(hold, z))
	s := servertest.Serve(t, sw, nil)
	g := group(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const n = 50
	for range n {
		wg.Go(func() {
			if _, err := servertest.AskContext(ctx, t, g, "www.example."); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want canceled", err)
			}
		})
	}
	servertest.Eventually(t, "all are in flight", func() bool { return s.Stats().Queries() >= n })
	cancel()
	wg.Wait()
	if st := g.Stats().Servers[0]; st.InFlight != 0 || st.LastError != "" {
		t.Errorf("stats %+v, want nothing in flight, and no failure", st)
	}
	sw.Set(z)
	close(hold)
	servertest.Eventually(t, "the late replies arrive", func() bool { return g.Stats().Servers[0].Late == n })
	servertest.MustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 1 {
		t.Errorf("%d connections, want the one", st.Conns)
	}
	if st := g.Stats().Servers[0]; st.Strays != 0 || st.Abandoned != n || st.Failed != 0 {
		t.Errorf("stats %+v, want %d abandoned, and no strays", st, n)
	}
}

// TestNetworkChanged: connections are reopened, queries in flight are not lost, failures are
// forgotten.
func TestNetworkChanged(t *testing.T) {
	z := servertest.Zone(t)
	hold := make(chan struct{})
	defer close(hold)
	sw := dnstest.NewSwitch(z)
	s := servertest.Serve(t, sw, nil)
	g := group(t, s)
	servertest.MustAsk(t, g, "www.example.")
	sw.Set(dnstest.Hold(hold, z))
	done := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, g, "www.example.")
		done <- err
	}()
	servertest.Eventually(t, "it is in flight", func() bool { return s.Stats().Queries() >= 2 })
	sw.Set(z)
	g.NetworkChanged()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Conns != 2 {
		t.Errorf("%d connections, want 2", st.Conns)
	}
	g.endpoints[0].failed(time.Now(), transport.ErrTimeout)
	g.NetworkChanged()
	if st := g.Stats().Servers[0]; st.Backoff != 0 || st.LastError != "" {
		t.Errorf("stats %+v, want no failure", st)
	}
}

// TestNetworkChangedWhileDialling: a dial over the old network is canceled, and queries that
// wait for it use a new one.
func TestNetworkChangedWhileDialling(t *testing.T) {
	var accepted atomic.Int32
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool { return accepted.Add(1) > 1 } // the first hangs
	})
	g := group(t, s)
	done := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, g, "www.example.")
		done <- err
	}()
	servertest.Eventually(t, "it dials", func() bool { return accepted.Load() > 0 })
	g.NetworkChanged()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRunWarms: the first connection is opened before any query, and reopened when the
// server closes it, with a resumed session.
func TestRunWarms(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	other := servertest.Serve(t, servertest.Zone(t), nil)
	g := group(t, s, other)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	servertest.Eventually(t, "a connection is open", func() bool { return g.Stats().Servers[0].Conns == 1 })
	servertest.MustAsk(t, g, "www.example.")
	s.EndConns(dnstest.Close)
	servertest.Eventually(t, "another one is open", func() bool { return s.Stats().Handshakes == 2 && g.Stats().Servers[0].Conns == 1 })
	servertest.MustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 2 || st.Resumed != 1 || st.Queries() != 2 {
		t.Errorf("server saw %+v", st)
	}
	if n := other.Stats().Conns; n != 0 {
		t.Errorf("%d connections to a server that was not asked", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestRunWarmsAll: if any server may be asked first, connections to all are kept open.
func TestRunWarmsAll(t *testing.T) {
	cfg := hasty(servertest.Serve(t, servertest.Zone(t), nil), servertest.Serve(t, servertest.Zone(t), nil))
	cfg.Policy = order.Random
	g := groupOf(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	servertest.Eventually(t, "both are warm", func() bool {
		st := g.Stats().Servers
		return st[0].Conns == 1 && st[1].Conns == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestClose: closing leaves no goroutine, whatever is in progress.
func TestClose(t *testing.T) {
	s := servertest.Serve(t, dnstest.Silent(), nil)
	hung := servertest.Serve(t, dnstest.Silent(), func(c *dnstest.Config) {
		c.Accept = func(nc net.Conn) bool { t.Cleanup(func() { nc.Close() }); return false }
	})
	g, err := New(Config{
		Servers: []Server{{Addr: hung.Addr(), Name: servertest.Name}, {Addr: s.Addr(), Name: servertest.Name}},
		RootCAs: servertest.CA().Pool, AttemptTimeout: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() {
			_, err := servertest.Ask(t, g, "www.example.")
			errs <- err
		}()
	}
	servertest.Eventually(t, "queries are pending", func() bool { return s.Stats().Queries() > 0 })
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
	_, err = servertest.Ask(t, g, "www.example.")
	servertest.WantEDE(t, err, wire.EDEOther, "the upstream group is closed")
	if left := servertest.Goroutines(); left != "" {
		t.Errorf("goroutines are still running:\n%s", left)
	}
	if err := g.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
}
