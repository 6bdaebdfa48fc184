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

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// keepalive answers like h, and announces an idle timeout in units of 100 ms; none if
// negative.
func keepalive(units *atomic.Int32, h dnstest.Handler) dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := h.Answer(r)
		if n := units.Load(); n >= 0 {
			// The OPT record is the last one, and has no options.
			binary.BigEndian.PutUint16(a.Msg[len(a.Msg)-2:], 6)
			a.Msg = append(a.Msg, 0, 11, 0, 2, byte(n>>8), byte(n))
		}
		return a
	})
}

// TestKeepaliveIsAsked: every query has an empty keepalive option, which asks for the idle
// timeout.
func TestKeepaliveIsAsked(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.LogQueries = 10 })
	cl := newClient(t, s)
	for range 3 {
		servertest.MustAsk(t, cl, "www.example.")
	}
	for _, q := range s.Log() {
		if !bytes.Contains(q.Query, []byte{0, 11, 0, 0}) {
			t.Errorf("no keepalive option in %x", q.Query)
		}
	}
}

// TestKeepaliveIdle: the client closes an idle connection shortly before its server does.
func TestKeepaliveIdle(t *testing.T) {
	var units atomic.Int32
	units.Store(6)
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	cl := newClient(t, s)
	started := time.Now()
	servertest.MustAsk(t, cl, "www.example.")
	if idle := idleOf(cl); idle != clientTimeout(600*time.Millisecond) {
		t.Errorf("it may be idle for %v", idle)
	}
	servertest.Eventually(t, "it is closed", func() bool { return cl.stats().Conns == 0 })
	if d := time.Since(started); d < clientTimeout(600*time.Millisecond) {
		t.Errorf("closed after %v", d)
	}
	servertest.Eventually(t, "the server sees it", func() bool { return s.Stats().Open == 0 })
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Lost != 0 || st.Failed != 0 || st.Dials != 2 || st.Resumed != 1 {
		t.Errorf("stats %+v, want two connections and nothing lost", st)
	}
	// The latest announcement applies.
	units.Store(-1)
	servertest.MustAsk(t, cl, "www.example.")
	if idle := idleOf(cl); idle != clientTimeout(600*time.Millisecond) {
		t.Errorf("a reply without the option changed it to %v", idle)
	}
	units.Store(100)
	servertest.MustAsk(t, cl, "www.example.")
	if idle := idleOf(cl); idle != 9*time.Second {
		t.Errorf("it may be idle for %v, want a second less than the server's ten", idle)
	}
}

// idleOf returns how long the only connection may be idle.
func idleOf(cl *client) time.Duration {
	c := cl.pool.firstConn()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleTimeout
}

// TestKeepaliveUse: a connection in use is not idle, and a query that is slower than the
// idle timeout keeps it open.
func TestKeepaliveUse(t *testing.T) {
	var units atomic.Int32
	units.Store(3)
	z := servertest.Zone(t)
	s := servertest.Serve(t, keepalive(&units, z), nil)
	cl := newClient(t, s)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		servertest.MustAsk(t, cl, "delay-20.example.")
	}
	servertest.MustAsk(t, cl, "delay-700.example.")
	if st := cl.stats(); st.Lost != 0 || st.Failed != 0 {
		t.Errorf("stats %+v, want nothing lost", st)
	}
	// A slow machine may be idle for 225 ms between two queries, but not each time.
	if st := cl.stats(); st.Dials > st.Queries/4 {
		t.Errorf("%d connections for %d queries", st.Dials, st.Queries)
	}
}

// TestKeepaliveZero: if the server announces zero, its connection is closed when no reply is
// pending, and the next query uses a new one.
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
	cl := newClient(t, s)
	slow := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, cl, "slow.example.")
		slow <- err
	}()
	servertest.Eventually(t, "the slow query is in flight", func() bool { return s.Stats().Queries() >= 1 })
	units.Store(0)
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Conns != 1 || st.InFlight != 1 {
		t.Errorf("stats %+v, want the connection to wait for its slow reply", st)
	}
	units.Store(-1)
	servertest.MustAsk(t, cl, "www.example.")
	if st := s.Stats(); st.Conns != 2 {
		t.Errorf("%d connections, want a second one for the next query", st.Conns)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	servertest.Eventually(t, "the first connection is closed", func() bool { return s.Stats().Open == 1 })
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Dials != 2 || st.Lost != 0 || st.Conns != 1 {
		t.Errorf("stats %+v, want two connections, one of them open, and nothing lost", st)
	}
}

// TestKeepaliveZeroAlways: a server that announces zero on each connection is slow, but
// works.
func TestKeepaliveZeroAlways(t *testing.T) {
	var units atomic.Int32
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	cl := newClient(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 4 {
				if _, err := servertest.Ask(t, cl, "www.example."); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	servertest.Eventually(t, "all are closed", func() bool { return s.Stats().Open == 0 && cl.stats().Conns == 0 })
	if st := cl.stats(); st.Lost != 0 || st.Failed != 0 || st.Replies != 200 {
		t.Errorf("stats %+v, want 200 replies, and nothing lost", st)
	}
}

// TestReopenedBeforeNeeded: after an idle connection was closed, by the server or because of
// its announced timeout, a new one is open before the next query, which needs no handshake.
func TestReopenedBeforeNeeded(t *testing.T) {
	for _, announced := range []bool{false, true} {
		t.Run(fmt.Sprintf("announced=%v", announced), func(t *testing.T) {
			var units atomic.Int32
			units.Store(-1)
			s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
			cl := newClient(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { cl.run(ctx); close(done) }()
			servertest.MustAsk(t, cl, "www.example.")
			for n := uint64(2); n < 5; n++ {
				cl.pool.setLastWarm(time.Time{}) // as if it had been open for a while
				if announced {
					units.Store(2) // the next reply announces 200 ms
				}
				servertest.MustAsk(t, cl, "www.example.")
				units.Store(-1)
				if !announced {
					s.EndConns(dnstest.Close)
				}
				servertest.Eventually(t, "it is reopened", func() bool {
					return s.Stats().Handshakes == n && cl.stats().Conns == 1
				})
				dials := cl.stats().Dials
				servertest.MustAsk(t, cl, "www.example.")
				if st := cl.stats(); st.Dials != dials || st.Resent != 0 || st.Lost != 0 {
					t.Errorf("stats %+v, want the query to use an open connection", st)
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

// TestReopeningIsLimited: if the server closes idle connections after a moment, they are
// reopened repeatedly, but not in a loop.
func TestReopeningIsLimited(t *testing.T) {
	var units atomic.Int32
	units.Store(1)
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), func(c *dnstest.Config) { c.IdleTimeout = 100 * time.Millisecond })
	cl := newClient(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { cl.run(ctx); close(done) }()
	servertest.MustAsk(t, cl, "www.example.")
	started := time.Now()
	before := s.Stats().Handshakes
	servertest.Eventually(t, "three more connections", func() bool { return s.Stats().Handshakes == before+3 })
	if d := time.Since(started); d < 2*conns.WarmInterval {
		t.Errorf("three connections within %v", d)
	}
	if n := s.Stats().Queries(); n != 1 {
		t.Errorf("%d queries, want one", n)
	}
	cancel()
	<-done
}

// TestDrainUnderLoad: a reply that announces zero does not lose other queries in flight.
func TestDrainUnderLoad(t *testing.T) {
	var units atomic.Int32
	units.Store(-1)
	s := servertest.Serve(t, keepalive(&units, servertest.Zone(t)), nil)
	cl := newClient(t, s)
	stop := make(chan struct{})
	var toggles sync.WaitGroup
	toggles.Go(func() {
		for n := int32(0); ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				units.Store(n%5 - 1) // no option, zero, short timeouts
			}
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 40 {
				if r, err := servertest.Ask(t, cl, "www.example."); err != nil || wire.Rcode(r) != wire.RcodeSuccess {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	toggles.Wait()
	if st := cl.stats(); st.Lost != 0 || st.Failed != 0 || st.Replies != 2000 || st.Resent != 0 {
		t.Errorf("stats %+v, want 2,000 replies, and nothing lost", st)
	}
}
