// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
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
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.LogQueries = 10 })
	g := newClient(t, s)
	for range 3 {
		servertest.MustAsk(t, g, "www.example.")
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
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	g := newClient(t, s)
	began := time.Now()
	servertest.MustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != clientTimeout(600*time.Millisecond) {
		t.Errorf("it may be idle for %v", idle)
	}
	servertest.Eventually(t, "it is closed", func() bool { return g.stats().Conns == 0 })
	if d := time.Since(began); d < clientTimeout(600*time.Millisecond) {
		t.Errorf("closed after %v", d)
	}
	servertest.Eventually(t, "the server sees it", func() bool { return s.Stats().Open == 0 })
	servertest.MustAsk(t, g, "www.example.")
	if st := g.stats(); st.Lost != 0 || st.Failed != 0 || st.Dials != 2 || st.Resumed != 1 {
		t.Errorf("stats %+v, want two connections and nothing lost", st)
	}
	// What the latest reply says counts.
	units.Store(-1)
	servertest.MustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != clientTimeout(600*time.Millisecond) {
		t.Errorf("a reply that says nothing changed it to %v", idle)
	}
	units.Store(100)
	servertest.MustAsk(t, g, "www.example.")
	if idle := idleOf(g); idle != 9*time.Second {
		t.Errorf("it may be idle for %v, want a second less than the server's ten", idle)
	}
}

// idleOf is how long the only connection may be idle.
func idleOf(g *client) time.Duration {
	p := g.pool
	p.mu.Lock()
	c := p.conns[0]
	p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleTimeout
}

// TestKeepaliveUse: a connection in use is not idle, however long its time, and a
// query that is slower than that keeps it open.
func TestKeepaliveUse(t *testing.T) {
	var units atomic.Int32
	units.Store(3)
	z := servertest.Zone(t)
	s := servertest.Serve(t, keepalive(&units, z), nil)
	g := newClient(t, s)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		servertest.MustAsk(t, g, "delay-20.example.")
	}
	servertest.MustAsk(t, g, "delay-700.example.")
	if st := g.stats(); st.Lost != 0 || st.Failed != 0 {
		t.Errorf("stats %+v, want nothing lost", st)
	}
	// A slow machine may be idle for 225 ms between two queries; not each time.
	if st := g.stats(); st.Dials > st.Queries/4 {
		t.Errorf("%d connections for %d queries", st.Dials, st.Queries)
	}
}

// TestKeepaliveZero: a server that wants its connection closed gets that when it has
// answered what it was asked, and the next query has a new one.
func TestKeepaliveZero(t *testing.T) {
	var units atomic.Int32
	units.Store(-1)
	z := servertest.Zone(t)
	release := make(chan struct{})
	s := servertest.Serve(t, keepalive(&units, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	})), nil)
	g := newClient(t, s)
	slow := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, g, "slow.example.")
		slow <- err
	}()
	servertest.Eventually(t, "the slow one is asked", func() bool { return s.Stats().Queries() == 1 })
	units.Store(0)
	servertest.MustAsk(t, g, "www.example.")
	if st := g.stats(); st.Conns != 1 || st.InFlight != 1 {
		t.Errorf("stats %+v, want that the connection waits for its slow reply", st)
	}
	units.Store(-1)
	servertest.MustAsk(t, g, "www.example.")
	if st := s.Stats(); st.Conns != 2 {
		t.Errorf("%d connections, want a second one for the next query", st.Conns)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	servertest.Eventually(t, "the first is closed", func() bool { return s.Stats().Open == 1 })
	servertest.MustAsk(t, g, "www.example.")
	if st := g.stats(); st.Dials != 2 || st.Lost != 0 || st.Conns != 1 {
		t.Errorf("stats %+v, want two connections, one of them open, and nothing lost", st)
	}
}

// TestKeepaliveZeroAlways: a server that wants each connection closed at once is
// slow, but answers.
func TestKeepaliveZeroAlways(t *testing.T) {
	var units atomic.Int32
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	g := newClient(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 4 {
				if _, err := servertest.Ask(t, g, "www.example."); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	servertest.Eventually(t, "all are closed", func() bool { return s.Stats().Open == 0 && g.stats().Conns == 0 })
	if st := g.stats(); st.Lost != 0 || st.Failed != 0 || st.Replies != 200 {
		t.Errorf("stats %+v, want 200 replies, and nothing lost", st)
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
			s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
			g := newClient(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { g.run(ctx); close(done) }()
			servertest.MustAsk(t, g, "www.example.")
			for n := uint64(2); n < 5; n++ {
				g.pool.setLastWarm(time.Time{}) // as if it had been open for a while
				if announced {
					units.Store(2) // the next reply says: for 200 ms
				}
				servertest.MustAsk(t, g, "www.example.")
				units.Store(-1)
				if !announced {
					s.EndConns(dnstest.Close)
				}
				servertest.Eventually(t, "it is reopened", func() bool {
					return s.Stats().Handshakes == n && g.stats().Conns == 1
				})
				dials := g.stats().Dials
				servertest.MustAsk(t, g, "www.example.")
				if st := g.stats(); st.Dials != dials || st.Resent != 0 || st.Lost != 0 {
					t.Errorf("stats %+v, want that the query found a connection open", st)
				}
			}
			if st := s.Stats(); st.Resumed != st.Handshakes-1 {
				t.Errorf("%d of %d handshakes resumed a session", st.Resumed, st.Handshakes)
			}
			cancel()
			<-done
		})
	}
}

// TestKeptWarm: where the server keeps idle connections but for a moment, there is a
// new one soon again and again, and yet not in a loop.
func TestKeptWarm(t *testing.T) {
	var units atomic.Int32
	units.Store(1)
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), func(c *dnstest.Config) { c.IdleTimeout = 100 * time.Millisecond })
	g := newClient(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { g.run(ctx); close(done) }()
	servertest.MustAsk(t, g, "www.example.")
	began := time.Now()
	before := s.Stats().Handshakes
	servertest.Eventually(t, "three more connections", func() bool { return s.Stats().Handshakes == before+3 })
	if d := time.Since(began); d < 2*warmInterval {
		t.Errorf("three connections within %v", d)
	}
	if n := s.Stats().Queries(); n != 1 {
		t.Errorf("%d queries, want the one", n)
	}
	cancel()
	<-done
}

// TestRetireUnderLoad: a reply that wants the connection closed loses none of those
// that are in flight beside it.
func TestRetireUnderLoad(t *testing.T) {
	var units atomic.Int32
	units.Store(-1)
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	g := newClient(t, s)
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
				if r, err := servertest.Ask(t, g, "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	toggles.Wait()
	if st := g.stats(); st.Lost != 0 || st.Failed != 0 || st.Replies != 2000 || st.Resent != 0 {
		t.Errorf("stats %+v, want 2,000 replies, and nothing lost", st)
	}
}
