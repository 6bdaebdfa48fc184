// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// keepalive answers like h, and says that connections are kept for that long, in
// units of 100 ms; below 0 it says nothing.
func keepalive(units *atomic.Int32, h dnstest.Handler) dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := h.Answer(r)
		if n := units.Load(); n >= 0 {
			// Its OPT is the last record, and has no options.
			binary.BigEndian.PutUint16(a.Msg[len(a.Msg)-2:], 6)
			a.Msg = append(a.Msg, 0, 11, 0, 2, byte(n>>8), byte(n))
		}
		return a
	})
}

// TestKeepaliveIsAsked: every query asks how long its connection is kept, and none
// says what only a server can say.
func TestKeepaliveIsAsked(t *testing.T) {
	s := serve(t, zone(t), func(c *dnstest.Config) { c.LogQueries = 10 })
	g := group(t, s)
	for range 3 {
		mustAsk(t, g, "www.example.")
	}
	for _, q := range s.Log() {
		if !bytes.Contains(q.Query, []byte{0, 11, 0, 0}) {
			t.Errorf("no keepalive option in %x", q.Query)
		}
	}
}

// TestKeepaliveIdle: the client closes an idle connection before its server does, and
// not before the time that the server named is nearly over.
func TestKeepaliveIdle(t *testing.T) {
	var units atomic.Int32
	units.Store(6)
	s := serve(t, keepalive(&units, zone(t)), nil)
	g := group(t, s)
	began := time.Now()
	mustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != beforehand(600*time.Millisecond) {
		t.Errorf("it may be idle for %v", idle)
	}
	eventually(t, "it is closed", func() bool { return g.Stats().Servers[0].Conns == 0 })
	if d := time.Since(began); d < beforehand(600*time.Millisecond) {
		t.Errorf("closed after %v", d)
	}
	eventually(t, "the server sees it", func() bool { return s.Stats().Open == 0 })
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Lost != 0 || st.Failed != 0 || st.Dials != 2 || st.Resumed != 1 {
		t.Errorf("stats %+v, want two connections and nothing lost", st)
	}
	// What the latest reply says counts.
	units.Store(-1)
	mustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != beforehand(600*time.Millisecond) {
		t.Errorf("a reply that says nothing changed it to %v", idle)
	}
	units.Store(100)
	mustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != 9*time.Second {
		t.Errorf("it may be idle for %v, want a second less than the server's ten", idle)
	}
}

// idleOf is how long the only connection may be idle.
func idleOf(g *Group) time.Duration {
	p := poolOf(g)
	p.mu.Lock()
	c := p.conns[0]
	p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle
}

// TestKeepaliveUse: a connection in use is not idle, however long its time, and a
// query that is slower than that keeps it open.
func TestKeepaliveUse(t *testing.T) {
	var units atomic.Int32
	units.Store(3)
	z := zone(t)
	s := serve(t, keepalive(&units, z), nil)
	g := group(t, s)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		mustAsk(t, g, "delay-20.example.")
	}
	mustAsk(t, g, "delay-700.example.")
	if st := g.Stats().Servers[0]; st.Lost != 0 || st.Failed != 0 {
		t.Errorf("stats %+v, want nothing lost", st)
	}
	// A slow machine may be idle for 225 ms between two queries; not each time.
	if st := g.Stats().Servers[0]; st.Dials > st.Queries/4 {
		t.Errorf("%d connections for %d queries", st.Dials, st.Queries)
	}
}

// TestKeepaliveZero: a server that wants its connection closed gets that when it has
// answered what it was asked, and the next query has a new one.
func TestKeepaliveZero(t *testing.T) {
	var units atomic.Int32
	units.Store(-1)
	z := zone(t)
	release := make(chan struct{})
	s := serve(t, keepalive(&units, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	})), nil)
	g := group(t, s)
	slow := make(chan error, 1)
	go func() {
		_, err := ask(t, g, "slow.example.")
		slow <- err
	}()
	eventually(t, "the slow one is asked", func() bool { return s.Stats().Queries() == 1 })
	units.Store(0)
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Conns != 1 || st.InFlight != 1 {
		t.Errorf("stats %+v, want that the connection waits for its slow reply", st)
	}
	units.Store(-1)
	mustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 2 {
		t.Errorf("%d connections, want a second one for the next query", st.Conns)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	eventually(t, "the first is closed", func() bool { return s.Stats().Open == 1 })
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Dials != 2 || st.Lost != 0 || st.Conns != 1 {
		t.Errorf("stats %+v, want two connections, one of them open, and nothing lost", st)
	}
}

// TestKeepaliveZeroAlways: a server that wants each connection closed at once is
// slow, but answers.
func TestKeepaliveZeroAlways(t *testing.T) {
	var units atomic.Int32
	s := serve(t, keepalive(&units, zone(t)), nil)
	g := group(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 4 {
				if _, err := ask(t, g, "www.example."); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all are closed", func() bool { return s.Stats().Open == 0 && g.Stats().Servers[0].Conns == 0 })
	if st := g.Stats().Servers[0]; st.Lost != 0 || st.Failed != 0 || st.Replies != 200 {
		t.Errorf("stats %+v, want 200 replies, and nothing lost", st)
	}
}

// TestAge: an old connection is replaced and not cut: the new one is open first, the
// old one keeps what it has, gets nothing new, and closes when it is answered.
func TestAge(t *testing.T) {
	z := zone(t)
	release := make(chan struct{})
	s := serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	}), func(c *dnstest.Config) { c.LogQueries = 100 })
	g := groupOf(t, Config{Servers: []Server{{Addr: s.Addr(), Name: testName}}, MaxConns: 1, MaxAge: time.Minute})
	p := poolOf(g)
	slow := make(chan error, 1)
	go func() {
		_, err := ask(t, g, "slow.example.")
		slow <- err
	}()
	eventually(t, "it is in flight", func() bool { return s.Stats().Queries() == 1 })
	p.keep(t.Context(), time.Now().Add(40*time.Second), true)
	if st := g.Stats().Servers[0]; st.Dials != 1 {
		t.Errorf("%d dials before it is old", st.Dials)
	}
	p.setLastWarm(time.Time{})
	p.keep(t.Context(), time.Now().Add(time.Minute), true)
	eventually(t, "there is a new one", func() bool { return g.Stats().Servers[0].Conns == 2 })
	for range 10 {
		mustAsk(t, g, "www.example.")
	}
	for i, q := range s.Log() {
		if want := uint64(min(i+1, 2)); q.Conn != want {
			t.Errorf("query %d was on connection %d, want %d", i, q.Conn, want)
		}
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow one ended: %v", err)
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	eventually(t, "the old one is closed", func() bool { return s.Stats().Open == 1 && g.Stats().Servers[0].Conns == 1 })
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Dials != 2 || st.Lost != 0 || st.Resent != 0 || st.Resumed != 1 {
		t.Errorf("stats %+v, want two connections, the second resumed, and nothing lost", st)
	}
}

// TestAgeOfTheUnused: nobody needs a new one where no query is expected.
func TestAgeOfTheUnused(t *testing.T) {
	s := serve(t, zone(t), nil)
	g := group(t, s)
	mustAsk(t, g, "www.example.")
	poolOf(g).keep(t.Context(), time.Now().Add(2*DefaultMaxAge), false)
	if st := g.Stats().Servers[0]; st.Dials != 1 || st.Conns != 0 {
		t.Errorf("stats %+v, want the connection closed and none opened", st)
	}
}

// TestAgeFails: where no new connection can be opened, the old one stays.
func TestAgeFails(t *testing.T) {
	s := serve(t, zone(t), nil)
	g := groupOf(t, Config{Servers: []Server{{Addr: s.Addr(), Name: testName}}, MaxAge: time.Minute})
	mustAsk(t, g, "www.example.")
	good := issue(t, dnstest.CertOptions{})
	s.SetCertificate(issue(t, dnstest.CertOptions{Names: []string{"other.example"}}))
	p := poolOf(g)
	p.sessionsOf(s.Addr()).clear()
	p.keep(t.Context(), time.Now().Add(time.Minute), true)
	eventually(t, "a dial failed", func() bool { return g.Stats().Servers[0].DialErrors == 1 })
	mustAsk(t, g, "www.example.")
	if st := g.Stats().Servers[0]; st.Conns != 1 || st.Failed != 0 {
		t.Errorf("stats %+v, want the old connection at work", st)
	}
	s.SetCertificate(good)
	p.setLastWarm(time.Time{})
	p.keep(t.Context(), time.Now().Add(time.Minute), true)
	eventually(t, "it is replaced", func() bool { return s.Stats().Handshakes == 2 && s.Stats().Open == 1 })
	mustAsk(t, g, "www.example.")
}

func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		random float64
		want   time.Duration
	}{{0, time.Hour}, {0.5, 52*time.Minute + 30*time.Second}, {1, 45 * time.Minute}} {
		if got := lifetime(time.Hour, tc.random); got != tc.want {
			t.Errorf("random %v: %v, want %v", tc.random, got, tc.want)
		}
	}
	for _, tc := range []struct{ timeout, want time.Duration }{
		{100 * time.Millisecond, 50 * time.Millisecond},
		{400 * time.Millisecond, 300 * time.Millisecond},
		{2 * time.Second, 1500 * time.Millisecond},
		{10 * time.Second, 9 * time.Second},
		{time.Hour, time.Hour - time.Second},
	} {
		if got := beforehand(tc.timeout); got != tc.want || got <= 0 {
			t.Errorf("timeout %v: %v, want %v", tc.timeout, got, tc.want)
		}
	}
}

// TestReopenedBeforeNeeded: after the server closed an idle connection, be it that it
// just did or that it had said when it would, the next query finds a new one that is
// open already: it costs no handshake.
func TestReopenedBeforeNeeded(t *testing.T) {
	for _, announced := range []bool{false, true} {
		t.Run(fmt.Sprintf("announced=%v", announced), func(t *testing.T) {
			var units atomic.Int32
			units.Store(-1)
			s := serve(t, keepalive(&units, zone(t)), nil)
			g := group(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- g.Run(ctx) }()
			mustAsk(t, g, "www.example.")
			for n := uint64(2); n < 5; n++ {
				poolOf(g).setLastWarm(time.Time{}) // as if it had been open for a while
				if announced {
					units.Store(2) // the next reply says: for 200 ms
				}
				mustAsk(t, g, "www.example.")
				units.Store(-1)
				if !announced {
					s.EndConns(dnstest.Close)
				}
				eventually(t, "it is reopened", func() bool {
					return s.Stats().Handshakes == n && g.Stats().Servers[0].Conns == 1
				})
				dials := g.Stats().Servers[0].Dials
				mustAsk(t, g, "www.example.")
				if st := g.Stats().Servers[0]; st.Dials != dials || st.Resent != 0 || st.Lost != 0 {
					t.Errorf("stats %+v, want that the query found a connection open", st)
				}
			}
			if st := s.Stats(); st.Resumed != st.Handshakes-1 {
				t.Errorf("%d of %d handshakes resumed a session", st.Resumed, st.Handshakes)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKeptWarm: where the server keeps idle connections but for a moment, there is a
// new one soon again and again, and yet not in a loop.
func TestKeptWarm(t *testing.T) {
	var units atomic.Int32
	units.Store(1)
	s := serve(t, keepalive(&units, zone(t)), func(c *dnstest.Config) { c.IdleTimeout = 100 * time.Millisecond })
	g := group(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	mustAsk(t, g, "www.example.")
	began := time.Now()
	before := s.Stats().Handshakes
	eventually(t, "three more connections", func() bool { return s.Stats().Handshakes == before+3 })
	if d := time.Since(began); d < 2*settle {
		t.Errorf("three connections within %v", d)
	}
	if n := s.Stats().Queries(); n != 1 {
		t.Errorf("%d queries, want the one", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSessionsOfTwoConnections: a second connection beside the first, and one that is reopened,
// both resume, in either version of TLS.
func TestSessionsOfTwoConnections(t *testing.T) {
	for _, version := range []uint16{0x0303, 0x0304} {
		z := zone(t)
		release := make(chan struct{})
		sw := dnstest.NewSwitch(z)
		s := serve(t, sw, func(c *dnstest.Config) { c.MaxVersion = version })
		g := group(t, s)
		mustAsk(t, g, "www.example.")
		sw.Set(dnstest.Hold(release, z))
		var wg sync.WaitGroup
		for range busyLoad + 10 {
			wg.Go(func() { _, _ = ask(t, g, "www.example.") })
		}
		eventually(t, "two connections are open", func() bool { return g.Stats().Servers[0].Conns == 2 })
		sw.Set(z)
		close(release)
		wg.Wait()
		mustAsk(t, g, "www.example.")
		s.EndConns(dnstest.Close)
		eventually(t, "both end", func() bool { return g.Stats().Servers[0].Conns == 0 })
		mustAsk(t, g, "www.example.")
		if st := s.Stats(); st.Handshakes != 3 || st.Resumed != 2 {
			t.Errorf("%#x: %d handshakes, %d resumed, want 3 and 2", version, st.Handshakes, st.Resumed)
		}
	}
}

// TestRetireUnderLoad: a reply that wants the connection closed loses none of those
// that are in flight beside it.
func TestRetireUnderLoad(t *testing.T) {
	var units atomic.Int32
	units.Store(-1)
	s := serve(t, keepalive(&units, zone(t)), nil)
	g := group(t, s)
	stop := make(chan struct{})
	var toggles sync.WaitGroup
	toggles.Go(func() {
		for n := int32(0); ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				units.Store(n%5 - 1) // nothing, now, soon, …
			}
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 40 {
				if r, err := ask(t, g, "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	toggles.Wait()
	if st := g.Stats().Servers[0]; st.Lost != 0 || st.Failed != 0 || st.Replies != 2000 || st.Resent != 0 {
		t.Errorf("stats %+v, want 2,000 replies, and nothing lost", st)
	}
}
