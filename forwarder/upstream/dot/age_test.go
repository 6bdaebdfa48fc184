// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"sotto/forwarder/upstream/conns"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/internal/dnstest"
)

// TestMaxAge: an old connection is replaced without losing queries: the new one is opened
// first, the old one gets no more queries and closes when no reply is pending.
func TestMaxAge(t *testing.T) {
	z := servertest.Zone(t)
	release := make(chan struct{})
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		if bytes.Contains(r.Query, []byte("slow")) {
			a.Wait = release
		}
		return a
	}), func(c *dnstest.Config) { c.LogQueries = 100 })
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, MaxConns: 1, MaxAge: time.Minute})
	p := cl.pool
	servertest.MustAsk(t, cl, "www.example.") // with its reply the session ticket has arrived
	slow := make(chan error, 1)
	go func() {
		_, err := servertest.Ask(t, cl, "slow.example.")
		slow <- err
	}()
	servertest.Eventually(t, "it is in flight", func() bool { return s.Stats().Queries() >= 2 })
	cl.pool.Maintain(t.Context(), time.Now().Add(40*time.Second), true)
	if st := cl.stats(); st.Dials != 1 {
		t.Errorf("%d dials before it has reached its age", st.Dials)
	}
	p.setLastWarm(time.Time{})
	cl.pool.Maintain(t.Context(), time.Now().Add(time.Minute), true)
	servertest.Eventually(t, "there is a new connection", func() bool { return cl.stats().Conns == 2 })
	for range 10 {
		servertest.MustAsk(t, cl, "www.example.")
	}
	for i, q := range s.Log() {
		if want := uint64(min(max(i, 1), 2)); q.Conn != want {
			t.Errorf("query %d was on connection %d, want %d", i, q.Conn, want)
		}
	}
	select {
	case err := <-slow:
		t.Fatalf("the slow query ended: %v", err)
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	servertest.Eventually(t, "the old connection is closed", func() bool { return s.Stats().Open == 1 && cl.stats().Conns == 1 })
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Dials != 2 || st.Lost != 0 || st.Resent != 0 || st.Resumed != 1 {
		t.Errorf("stats %+v, want two connections, the second resumed, and nothing lost", st)
	}
}

// TestMaxAgeWithoutQueries: no new connection is opened if no query is expected.
func TestMaxAgeWithoutQueries(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := newClient(t, s)
	servertest.MustAsk(t, cl, "www.example.")
	cl.pool.Maintain(t.Context(), time.Now().Add(2*maxAge), false)
	if st := cl.stats(); st.Dials != 1 || st.Conns != 0 {
		t.Errorf("stats %+v, want the connection closed and none opened", st)
	}
}

// TestReplacementFails: if no new connection can be opened, the old one stays open.
func TestReplacementFails(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	cl := clientOf(t, transport.Config{Server: transport.Server{Addr: s.Addr(), Name: servertest.Name}, MaxAge: time.Minute})
	servertest.MustAsk(t, cl, "www.example.")
	good := servertest.Issue(t, dnstest.CertOptions{})
	s.SetCertificate(servertest.Issue(t, dnstest.CertOptions{Names: []string{"other.example"}}))
	p := cl.pool
	p.dialer.Sessions(s.Addr()).Clear()
	cl.pool.Maintain(t.Context(), time.Now().Add(time.Minute), true)
	servertest.Eventually(t, "a dial failed", func() bool { return cl.stats().DialErrors == 1 })
	servertest.MustAsk(t, cl, "www.example.")
	if st := cl.stats(); st.Conns != 1 || st.Failed != 0 {
		t.Errorf("stats %+v, want the old connection in use", st)
	}
	s.SetCertificate(good)
	p.setLastWarm(time.Time{})
	cl.pool.Maintain(t.Context(), time.Now().Add(time.Minute), true)
	servertest.Eventually(t, "it is replaced", func() bool { return s.Stats().Handshakes == 2 && s.Stats().Open == 1 })
	servertest.MustAsk(t, cl, "www.example.")
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
		if got := clientTimeout(tc.timeout); got != tc.want || got <= 0 {
			t.Errorf("timeout %v: %v, want %v", tc.timeout, got, tc.want)
		}
	}
}

// TestSessionsOfTwoConnections: a second connection and one that is reopened both resume a
// session, in either version of TLS.
func TestSessionsOfTwoConnections(t *testing.T) {
	for _, version := range []uint16{0x0303, 0x0304} {
		z := servertest.Zone(t)
		release := make(chan struct{})
		sw := dnstest.NewSwitch(z)
		s := servertest.Serve(t, sw, func(c *dnstest.Config) { c.MaxVersion = version })
		cl := newClient(t, s)
		servertest.MustAsk(t, cl, "www.example.")
		sw.Set(dnstest.Hold(release, z))
		var wg sync.WaitGroup
		for range conns.BusyLoad + 10 {
			wg.Go(func() { _, _ = servertest.Ask(t, cl, "www.example.") })
		}
		// In TLS 1.3 the client is done first.
		servertest.Eventually(t, "two connections are open", func() bool { return cl.stats().Conns == 2 && s.Stats().Handshakes == 2 })
		sw.Set(z)
		close(release)
		wg.Wait()
		servertest.MustAsk(t, cl, "www.example.")
		s.EndConns(dnstest.Close)
		servertest.Eventually(t, "both are closed", func() bool { return cl.stats().Conns == 0 })
		servertest.MustAsk(t, cl, "www.example.")
		if st := s.Stats(); st.Handshakes != 3 || st.Resumed != 2 {
			t.Errorf("%#x: %d handshakes, %d resumed, want 3 and 2", version, st.Handshakes, st.Resumed)
		}
	}
}
