// SPDX-License-Identifier: Apache-2.0

package doh_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TestGoAway: a server that announces that it closes the connection loses no query.
func TestGoAway(t *testing.T) {
	var n atomic.Int64
	s := servertest.ServeWeb(t, transport.DoH, servertest.Zone(t), func(w *servertest.Web) {
		w.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			if n.Add(1)%50 == 0 {
				w.Header().Set("Connection", "close")
			}
			return false
		}
	})
	cl := newClient(t, s, transport.DoH, "")
	askMany(t, cl, 1000, nil)
	if s.Conns.Load() < 5 {
		t.Errorf("%d connections: the server did not close them", s.Conns.Load())
	}
}

// askMany sends queries, sixteen at a time, and calls disturb every hundred queries.
func askMany(t *testing.T, cl *servertest.Client, count int, disturb func()) {
	t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if _, err := servertest.Ask(t, cl, fmt.Sprintf("n%d.example.", i)); err != nil {
					t.Errorf("query %d: %v", i, err)
				}
			}
		})
	}
	for i := range count {
		next <- i
		if disturb != nil && i%100 == 99 {
			disturb()
		}
	}
	close(next)
	wg.Wait()
}

// TestLost: connections that are reset or whose network changes lose no query, and sessions
// are resumed.
func TestLost(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, dnstest.Delay(time.Millisecond, servertest.Zone(t)), nil)
		cl := newClient(t, s, p, "")
		askMany(t, cl, 1000, func() {
			if p == transport.DoH {
				s.CloseConns()
			} else {
				cl.T.Reset()
			}
		})
		st := cl.T.Stats()
		if st.Dials < 5 || st.DialErrors != 0 || st.Resumed < st.Dials/2 || st.Lost == 0 || st.InFlight != 0 {
			t.Errorf("stats %+v: want some connections, most of them resumed, and queries that were sent again", st)
		}
	})
}

// TestRestart: a server that is restarted gets the queries that follow on a new connection.
func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		cl := newClient(t, s, p, "")
		servertest.MustAsk(t, cl, "www.example.")
		s.Stop()
		servertest.Eventually(t, "the connection closes", func() bool { return cl.T.Stats().Conns == 0 })
		_, err := servertest.Ask(t, cl, "www.example.")
		servertest.WantEDE(t, err, wire.EDENetworkError, fmt.Sprintf("connection refused: nothing listens on %s port %d there", p.Network(), s.Addr.Port()))
		s.Start(p)
		servertest.Eventually(t, "it answers again", func() bool {
			_, err := servertest.Ask(t, cl, "www.example.")
			return err == nil
		})
	})
}

// TestDeadPath: a path that drops everything fails no query: the connection is given up
// after the silence timeout, and the query is sent again. On a busy machine it may be given up
// before the query.
func TestDeadPath(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		relay := servertest.NewRelay(t, p.Network(), servertest.ServeWeb(t, p, servertest.Zone(t), nil).Addr)
		server := transport.Server{Protocol: p, Addr: relay.Addr, Name: servertest.Name}
		cl := servertest.NewClient(t, transport.Config{Server: server, SilentTimeout: 500 * time.Millisecond}, protocols[p])
		servertest.MustAsk(t, cl, "www.example.")
		relay.MustDropOpen(t)
		servertest.MustAsk(t, cl, "www2.example.")
		if st := cl.T.Stats(); st.Dials != 2 || st.Lost != st.Resent || st.Lost > 1 {
			t.Errorf("stats %+v: want a second connection, and the query sent again if it was lost", st)
		}
	})
}

// TestSlowServer: a server that answers later than the silence timeout gets no more queries on that
// connection, and its late reply counts.
func TestSlowServer(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		release := make(chan struct{})
		s := servertest.ServeWeb(t, p, dnstest.Hold(release, servertest.Zone(t)), nil)
		servertest.MustBeSlow(t, newClient(t, s, p, ""), release, func() int64 { return s.Requests.Load() })
	})
}

// TestSlowName: a slow name does not disturb others, and its late reply is counted.
func TestSlowName(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		release := make(chan struct{})
		zone := servertest.Zone(t)
		s := servertest.ServeWeb(t, p, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
			a := zone.Answer(r)
			if string(r.Query[13:17]) == "slow" {
				a.Wait = release
			}
			return a
		}), nil)
		cl := newClient(t, s, p, "")
		cl.Wait = 300 * time.Millisecond
		done := make(chan error, 1)
		go func() {
			_, err := servertest.Ask(t, cl, "slow.example.")
			done <- err
		}()
		servertest.Eventually(t, "the query is in flight", func() bool { return s.Requests.Load() >= 1 })
		servertest.MustAsk(t, cl, "www.example.")
		err := <-done
		servertest.WantEDE(t, err, wire.EDENoReachableAuthority, "no answer within")
		close(release)
		servertest.Eventually(t, "the reply is counted", func() bool { return cl.T.Stats().Late == 1 })
		if st := cl.T.Stats(); st.Dials != 1 || st.Lost != 0 {
			t.Errorf("stats %+v: want one connection", st)
		}
	})
}

// TestMaintain: an expected connection is opened, and an unused one closed.
func TestMaintain(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		cl := newClient(t, s, p, "")
		cl.T.Maintain(t.Context(), time.Now(), true)
		servertest.Eventually(t, "a connection is open", func() bool { return cl.T.Stats().Conns == 1 })
		cl.T.Maintain(t.Context(), time.Now().Add(2*time.Minute), false)
		if n := cl.T.Stats().Conns; n != 1 {
			t.Errorf("%d connections after two minutes", n)
		}
		cl.T.Maintain(t.Context(), time.Now().Add(4*time.Minute), false)
		servertest.Eventually(t, "it is closed", func() bool { return cl.T.Stats().Conns == 0 })
		cl.T.Maintain(t.Context(), time.Now().Add(8*time.Minute), true)
		servertest.Eventually(t, "another one is open", func() bool { return cl.T.Stats().Conns == 1 })
		cl.T.Maintain(t.Context(), time.Now().Add(2*time.Hour), true)
		servertest.Eventually(t, "it is replaced", func() bool { return s.Conns.Load() == 3 && cl.T.Stats().Conns == 1 })
	})
}

// TestControl: each socket is prepared before it connects, and an error fails the dial.
func TestControl(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		var calls atomic.Int64
		cl := servertest.NewClient(t, transport.Config{Server: s.Server(p), Control: func(string, string, syscall.RawConn) error {
			if calls.Add(1) == 1 {
				return syscall.EPERM
			}
			return nil
		}}, protocols[p])
		if _, err := servertest.Ask(t, cl, "www.example."); err == nil {
			t.Error("no error")
		}
		servertest.Eventually(t, "it answers", func() bool {
			_, err := servertest.Ask(t, cl, "www.example.")
			return err == nil
		})
		if n := calls.Load(); n != 2 || cl.DialFailures.Load() != 1 {
			t.Errorf("%d sockets, %d failures: want 2 and 1", n, cl.DialFailures.Load())
		}
	})
}

// TestAborted: a socket that another program of this machine closes while the connection is
// being opened fails no query.
func TestAborted(t *testing.T) {
	s := servertest.ServeWeb(t, transport.DoH, servertest.Zone(t), nil)
	var calls atomic.Int64
	cl := servertest.NewClient(t, transport.Config{Server: s.Server(transport.DoH), Control: func(string, string, syscall.RawConn) error {
		if calls.Add(1) == 1 {
			return syscall.ECONNABORTED
		}
		return nil
	}}, protocols[transport.DoH])
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.T.Stats(); st.Dials != 2 || st.DialErrors != 0 {
		t.Errorf("stats %+v: want a second attempt", st)
	}
}

// TestRace: of several addresses the first that works is used.
func TestRace(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		good := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		closed := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		closed.Stop()
		server := closed.Server(p)
		server.Also = []netip.AddrPort{good.Addr}
		cl := servertest.NewClient(t, transport.Config{Server: server}, protocols[p])
		servertest.MustAsk(t, cl, "www.example.")
		if st := cl.T.Stats(); st.Dials != 2 || st.DialErrors != 1 || cl.DialFailures.Load() != 0 {
			t.Errorf("stats %+v: want two attempts, one of them failed", st)
		}
	})
}

// TestTap: the messages are shown with their protocol and addresses.
func TestTap(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, servertest.Zone(t), nil)
		var mu sync.Mutex
		var seen []tap.Message
		cl := servertest.NewClient(t, transport.Config{Server: s.Server(p), Tap: func(m tap.Message) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, m)
		}}, protocols[p])
		servertest.MustAsk(t, cl, "www.example.")
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 2 || seen[0].Kind != tap.ForwarderQuery || seen[1].Kind != tap.ForwarderResponse {
			t.Fatalf("messages %+v: want a query and its reply", seen)
		}
		for _, m := range seen {
			if m.Proto != tap.HTTPS || m.Responder != s.Addr || m.Querier.Addr() != servertest.Loopback || len(m.Data) < wire.HeaderLen {
				t.Errorf("message %+v", m)
			}
		}
	})
}

// TestClose: closing fails the queries in flight, and leaves no goroutine.
func TestClose(t *testing.T) {
	each(t, func(t *testing.T, p transport.Protocol) {
		s := servertest.ServeWeb(t, p, dnstest.Silent(), nil)
		cl := newClient(t, s, p, "")
		done := make(chan error, 1)
		go func() {
			_, err := servertest.Ask(t, cl, "www.example.")
			done <- err
		}()
		servertest.Eventually(t, "the query arrives", func() bool { return s.Requests.Load() >= 1 })
		cl.T.Close()
		servertest.WantEDE(t, <-done, wire.EDEOther, "the upstream group is closed")
		servertest.Eventually(t, "no goroutine is left", func() bool { return servertest.Goroutines() == "" })
	})
}
