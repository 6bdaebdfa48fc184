// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// hasty returns a configuration with short timeouts, for tests that wait for them.
func hasty(servers ...*dnstest.Server) Config {
	cfg := Config{Timeout: 2 * time.Second, AttemptTimeout: 700 * time.Millisecond, SilentTimeout: 900 * time.Millisecond}
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, Server{Addr: s.Addr(), Name: servertest.Name})
	}
	return cfg
}

// TestFaults: whatever the only server does, there is an error in time that describes it.
func TestFaults(t *testing.T) {
	z := servertest.Zone(t)
	for _, tc := range []struct {
		what string
		h    dnstest.Handler
		code uint16
		want string
	}{
		{"silent", dnstest.Silent(), wire.EDENoReachableAuthority, "the server does not answer queries"},
		{"reset", dnstest.ResetAll(), wire.EDENetworkError, "the server reset the connection before it answered"},
		{"close", dnstest.HandlerFunc(func(*dnstest.Request) dnstest.Answer { return dnstest.Answer{Then: dnstest.Close} }), wire.EDENetworkError, "the server closed the connection before it answered"},
		{"garbage", dnstest.Garbage(), wire.EDENetworkError, "the server sent data that is not a DNS message"},
		{"short", dnstest.Short(), wire.EDENetworkError, "the server sent data that is not a DNS message"},
		{"wrong ID", dnstest.WrongID(z), wire.EDENetworkError, "the server's replies do not match the queries"},
		{"wrong question", dnstest.WrongQuestion(z), wire.EDENetworkError, "the server's replies do not match the queries"},
		{"truncated frame", dnstest.TruncatedFrame(z), wire.EDENetworkError, "the server closed the connection in the middle of a message"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			s := servertest.Serve(t, tc.h, nil)
			g := groupOf(t, hasty(s))
			_, err := servertest.Ask(t, g, "www.example.")
			servertest.WantEDE(t, err, tc.code, Server{Addr: s.Addr(), Name: servertest.Name}.String()+": "+tc.want)
			if st := g.Stats().Servers[0]; st.InFlight != 0 || st.LastError == "" {
				t.Errorf("stats %+v, want nothing in flight and an error", st)
			}
		})
	}
}

// TestFaultsBesideGood: with a second, healthy server there is no error.
func TestFaultsBesideGood(t *testing.T) {
	z := servertest.Zone(t)
	good := servertest.Serve(t, z, nil)
	for what, h := range map[string]dnstest.Handler{
		"silent": dnstest.Silent(), "reset": dnstest.ResetAll(), "garbage": dnstest.Garbage(), "short": dnstest.Short(),
		"wrong ID": dnstest.WrongID(z), "wrong question": dnstest.WrongQuestion(z), "truncated frame": dnstest.TruncatedFrame(z),
		"servfail": dnstest.Rcode(dnstest.RcodeServFail), "bare refused": dnstest.HeaderOnly(dnstest.RcodeRefused),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			g := groupOf(t, hasty(servertest.Serve(t, h, nil), good))
			if r := servertest.MustAsk(t, g, "www.example."); wire.Rcode(r) != wire.RcodeSuccess {
				t.Errorf("rcode %d", wire.Rcode(r))
			}
		})
	}
}

// TestHandshakeFaults covers servers that do not complete the TLS handshake.
func TestHandshakeFaults(t *testing.T) {
	for _, tc := range []struct {
		what   string
		accept func(net.Conn)
		code   uint16
		want   string
	}{
		{"reset", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }, wire.EDENetworkError, "the server reset the connection during the TLS handshake"},
		{"close", func(c net.Conn) { buf := make([]byte, 4096); _, _ = c.Read(buf); c.Close() }, wire.EDENetworkError, "the server closed the connection during the TLS handshake"},
		{"plain", func(c net.Conn) {
			_, _ = c.Write([]byte("220 mail.example ESMTP\r\n"))
			time.Sleep(50 * time.Millisecond)
			c.Close()
		}, wire.EDENetworkError, "does not speak TLS"},
		{"silent", func(c net.Conn) { time.AfterFunc(4*time.Second, func() { c.Close() }) }, wire.EDENoReachableAuthority, "no answer within "},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
				c.Accept = func(nc net.Conn) bool { go tc.accept(nc); return false }
			})
			_, err := servertest.Ask(t, groupOf(t, hasty(s)), "www.example.")
			servertest.WantEDE(t, err, tc.code, tc.want)
		})
	}
}

func TestRefused(t *testing.T) {
	l, err := dnstest.Listen(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	g := groupOf(t, Config{Servers: []Server{{Addr: addr, Name: servertest.Name}}})
	_, err = servertest.Ask(t, g, "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "connection refused: nothing listens on TCP port ")
	// A burst of queries while the server is down does not cause a burst of dials.
	before := g.Stats().Servers[0].Dials
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for range 100 {
		if _, err := g.Exchange(ctx, servertest.Query("x.example.", dnstest.TypeA), servertest.Deadline()); err == nil {
			t.Fatal("an answer without a server")
		}
	}
	st := g.Stats().Servers[0]
	if n := st.Dials - before; n > 3 {
		t.Errorf("100 queries dialled %d times", n)
	}
	// The failure of one dial counts once, not for each of 100 queries.
	if most := health.BackoffBase << st.Dials; st.Backoff > most {
		t.Errorf("it is backed off for %v after %d dials, want at most %v", st.Backoff, st.Dials, most)
	}
}

// TestRestart: a server that is down for a moment loses no query.
func TestRestart(t *testing.T) {
	l, err := dnstest.Listen(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	g := groupOf(t, Config{Servers: []Server{{Addr: addr, Name: servertest.Name}}})
	done := make(chan error, 1)
	go func() {
		_, err := g.Exchange(context.Background(), servertest.Query("www.example.", dnstest.TypeA), servertest.Deadline())
		done <- err
	}()
	servertest.Eventually(t, "it dials", func() bool { return g.Stats().Servers[0].DialErrors > 0 })
	servertest.ServeAt(t, addr, servertest.Zone(t), nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLongRestart: queries wait for a server that was healthy until it is back, and all of
// them are answered.
func TestLongRestart(t *testing.T) {
	t.Parallel()
	l, err := dnstest.Listen(netip.AddrPortFrom(servertest.Loopback, 0))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	first, err := dnstest.New(dnstest.Config{Handler: servertest.Zone(t), TLS: []net.Listener{l}, Certificate: servertest.Issue(t, dnstest.CertOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- first.Serve(ctx) }()
	g := groupOf(t, Config{Servers: []Server{{Addr: addr, Name: servertest.Name}}})
	servertest.MustAsk(t, g, "www.example.")
	stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 10)
	for range cap(done) {
		go func() {
			_, err := g.Exchange(context.Background(), servertest.Query("www.example.", dnstest.TypeA), servertest.Deadline())
			done <- err
		}()
	}
	// Longer than two rounds.
	servertest.Eventually(t, "it is dialled repeatedly", func() bool { return g.Stats().Servers[0].DialErrors > 3 })
	servertest.ServeAt(t, addr, servertest.Zone(t), nil)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestBareError(t *testing.T) {
	s := servertest.Serve(t, dnstest.HeaderOnly(dnstest.RcodeNotImp), nil)
	r := servertest.MustAsk(t, group(t, s), "www.example.") // MustAsk checks the question
	if wire.Rcode(r) != wire.RcodeNotImp {
		t.Errorf("rcode %d, want NOTIMP", wire.Rcode(r))
	}
	if _, err := wire.ParseReply(r); err != nil {
		t.Errorf("the reply does not parse: %v", err)
	}
}

// TestCloseAfter: a server that closes connections after a few queries loses no query.
func TestCloseAfter(t *testing.T) {
	s := servertest.Serve(t, dnstest.CloseAfter(5, servertest.Zone(t)), nil)
	g := group(t, s)
	for range 50 {
		servertest.MustAsk(t, g, "www.example.")
	}
	if st := s.Stats(); st.Conns < 10 || st.Queries() < 50 {
		t.Errorf("server saw %+v", st)
	}
}

// TestLostInFlight: queries that were in flight when a connection was reset are sent again,
// and no caller receives an error.
func TestLostInFlight(t *testing.T) {
	z := servertest.Zone(t)
	hold := make(chan struct{})
	defer close(hold)
	sw := dnstest.NewSwitch(z)
	s := servertest.Serve(t, sw, nil)
	g := group(t, s)
	servertest.MustAsk(t, g, "first.example.")
	sw.Set(dnstest.Hold(hold, z))
	const n = 20
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := servertest.Ask(t, g, "www.example.")
			errs <- err
		}()
	}
	servertest.Eventually(t, "all are in flight", func() bool { return s.Stats().Queries() >= n+1 })
	sw.Set(z)
	s.EndConns(dnstest.Reset)
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if st := g.Stats().Servers[0]; st.Resent != n || st.Lost != n || st.LastError != "" {
		t.Errorf("stats %+v, want %d lost and resent, and no failure", st, n)
	}
}

// TestIdleClose: the first query after the server closed an idle connection is answered like
// any other.
func TestIdleClose(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) { c.IdleTimeout = 30 * time.Millisecond })
	g := group(t, s)
	for range 5 {
		servertest.MustAsk(t, g, "www.example.")
		time.Sleep(35 * time.Millisecond) // about when it closes: before, at, after
	}
	if st := g.Stats().Servers[0]; st.Failed != 0 || st.LastError != "" {
		t.Errorf("stats %+v, want no failure", st)
	}
}

// TestStrays: replies that match no query do no harm.
func TestStrays(t *testing.T) {
	z := servertest.Zone(t)
	s := servertest.Serve(t, dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		a := z.Answer(r)
		wrongID, wrongQ := dnstest.WrongID(z).Answer(r), dnstest.WrongQuestion(z).Answer(r)
		a.Raw = dnstest.Frame(a.Msg)
		a.Msg = nil
		a.Raw = append(append(dnstest.Frame(wrongID.Msg), dnstest.Frame(wrongQ.Msg)...), a.Raw...)
		return a
	}), nil)
	g := group(t, s)
	for range 20 {
		servertest.MustAsk(t, g, "www.example.")
	}
	if st := g.Stats().Servers[0]; st.Strays != 40 || st.Dials != 1 {
		t.Errorf("stats %+v, want 40 strays on one connection", st)
	}
}

func TestBadQuery(t *testing.T) {
	g := group(t, servertest.Serve(t, servertest.Zone(t), nil))
	for _, q := range [][]byte{nil, make([]byte, 11), make([]byte, 65536)} {
		_, err := g.Exchange(t.Context(), q, servertest.Deadline())
		if !errors.Is(err, errBadQuery) {
			t.Errorf("%d bytes: %v", len(q), err)
		}
	}
}
