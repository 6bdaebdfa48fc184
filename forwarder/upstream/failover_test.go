// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"sotto/forwarder/upstream/health"
	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
	"sotto/internal/dnstest"
)

// addressed answers every name with an address that identifies the server.
func addressed(tb testing.TB, last byte) *dnstest.Zone {
	tb.Helper()
	z, err := dnstest.NewZone(dnstest.ZoneConfig{A: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, last})}})
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

// serverOf returns the server that a reply came from.
func serverOf(reply []byte) byte {
	r, err := wire.ParseReply(append([]byte(nil), reply...))
	if err != nil || len(r.TTLs) != 1 {
		return 0
	}
	return r.Msg[int(r.TTLs[0])+9]
}

// TestFailover: the first server is asked while it is healthy, the second one while it is
// not, and then the first one again.
func TestFailover(t *testing.T) {
	first := dnstest.NewSwitch(addressed(t, 1))
	s1, s2 := servertest.Serve(t, first, nil), servertest.Serve(t, addressed(t, 2), nil)
	g := group(t, s1, s2)
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 1 {
		t.Errorf("server %d answered, want 1", got)
	}
	first.Set(dnstest.ResetAll())
	s1.EndConns(dnstest.Reset)
	for range 5 {
		if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
			t.Errorf("server %d answered, want 2", got)
		}
	}
	if st := g.Stats().Servers[0]; st.LastError == "" || st.Backoff == 0 {
		t.Errorf("stats of the failed server %+v", st)
	}
	// One was sent before it failed; on a slow machine there are probes as well.
	if n := s1.Stats().Queries(); n > 4 {
		t.Errorf("the failed server got %d queries, want only probes", n)
	}
	first.Set(addressed(t, 1))
	servertest.Eventually(t, "back to the first", func() bool { return serverOf(servertest.MustAsk(t, g, "www.example.")) == 1 })
	if st := g.Stats().Servers[0]; st.LastError != "" || st.Backoff != 0 {
		t.Errorf("stats of the recovered server %+v", st)
	}
}

// TestSilentFirst: a server that does not answer queries delays the first query, and not
// those that follow.
func TestSilentFirst(t *testing.T) {
	s1, s2 := servertest.Serve(t, dnstest.Silent(), nil), servertest.Serve(t, addressed(t, 2), nil)
	g := groupOf(t, hasty(s1, s2))
	for range 10 {
		if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
			t.Errorf("server %d answered", got)
		}
	}
	// On a slow machine there may be a probe.
	if n := s1.Stats().Queries(); n > 3 {
		t.Errorf("the silent server got %d of 10 queries", n)
	}
}

// TestSlowName: a name that takes long does not affect the server's state as long as the
// server answers others.
func TestSlowName(t *testing.T) {
	s1, s2 := servertest.Serve(t, addressed(t, 1), nil), servertest.Serve(t, addressed(t, 2), nil)
	g := groupOf(t, hasty(s1, s2))
	servertest.MustAsk(t, g, "www.example.")
	slow := make(chan byte, 1)
	go func() {
		reply, _ := servertest.Ask(t, g, "silent.example.")
		slow <- serverOf(reply)
	}()
	for end := time.Now().Add(900 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 1 {
			t.Errorf("server %d answered, want 1, in spite of one slow name", got)
		}
	}
	<-slow
}

// badVers refuses the EDNS version, even of queries without EDNS. The rcode is in the OPT record alone. If bare, the reply
// has no question.
func badVers(bare bool) dnstest.Handler {
	return dnstest.HandlerFunc(func(r *dnstest.Request) dnstest.Answer {
		msg := append([]byte(nil), r.Query...)
		msg[2] |= 0x80
		msg[11] = 1
		end := wire.HeaderLen
		if bare {
			msg[5] = 0
		} else {
			for msg[end] != 0 {
				end += 1 + int(msg[end])
			}
			end += 5
		}
		return dnstest.Answer{Msg: append(msg[:end], 0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0)}
	})
}

func TestBadRcodes(t *testing.T) {
	fail, refuse, good := dnstest.Rcode(dnstest.RcodeServFail), dnstest.Rcode(dnstest.RcodeRefused), addressed(t, 9)
	for _, tc := range []struct {
		what     string
		handlers []dnstest.Handler
		rcode    uint16
		asked    []uint64 // queries that each server saw
	}{
		{"SERVFAIL, then good", []dnstest.Handler{fail, good}, 0, []uint64{1, 1}},
		{"REFUSED, SERVFAIL, then good", []dnstest.Handler{refuse, fail, good}, 0, []uint64{1, 1, 1}},
		{"NXDOMAIN is an answer", []dnstest.Handler{dnstest.Rcode(dnstest.RcodeNXDomain), good}, wire.RcodeNXDomain, []uint64{1, 0}},
		{"BADVERS, then good", []dnstest.Handler{badVers(false), good}, 0, []uint64{2, 1}},
		{"BADVERS without a question, then good", []dnstest.Handler{badVers(true), good}, 0, []uint64{2, 1}},
		{"BADVERS without a question, alone", []dnstest.Handler{badVers(true)}, wire.RcodeFormErr, []uint64{2}},
		{"NOTAUTH, then good", []dnstest.Handler{dnstest.Rcode(9), good}, 0, []uint64{1, 1}},
		{"SERVFAIL everywhere", []dnstest.Handler{fail, fail}, wire.RcodeServFail, []uint64{1, 1}},
		{"SERVFAIL, then a dead one", []dnstest.Handler{fail, dnstest.ResetAll()}, wire.RcodeServFail, []uint64{1, 1}},
		{"a dead one, then SERVFAIL", []dnstest.Handler{dnstest.ResetAll(), fail}, wire.RcodeServFail, []uint64{1, 1}},
		{"three are enough", []dnstest.Handler{refuse, fail, fail, good}, wire.RcodeRefused, []uint64{1, 1, 1, 0}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var servers []*dnstest.Server
			for _, h := range tc.handlers {
				servers = append(servers, servertest.Serve(t, h, nil))
			}
			r := servertest.MustAsk(t, group(t, servers...), "www.example.")
			if wire.Rcode(r) != tc.rcode {
				t.Errorf("rcode %d, want %d", wire.Rcode(r), tc.rcode)
			}
			for i, s := range servers {
				if n := s.Stats().Queries(); n != tc.asked[i] {
					t.Errorf("server %d got %d queries, want %d", i+1, n, tc.asked[i])
				}
			}
		})
	}
}

// TestOtherServiceFirst: after a SERVFAIL another service is asked before another server of
// the same one.
func TestOtherServiceFirst(t *testing.T) {
	const other = "other.example"
	cert := servertest.Issue(t, dnstest.CertOptions{Names: []string{servertest.Name, other}})
	use := func(c *dnstest.Config) { c.Certificate = cert }
	a1, a2 := servertest.Serve(t, dnstest.Rcode(dnstest.RcodeServFail), use), servertest.Serve(t, addressed(t, 2), use)
	b := servertest.Serve(t, dnstest.Rcode(dnstest.RcodeServFail), use)
	g := groupOf(t, Config{Servers: []Server{{Addr: a1.Addr(), Name: servertest.Name}, {Addr: a2.Addr(), Name: servertest.Name}, {Addr: b.Addr(), Name: other}}})
	if got := serverOf(servertest.MustAsk(t, g, "www.example.")); got != 2 {
		t.Errorf("server %d answered, want 2", got)
	}
	if n := b.Stats().Queries(); n != 1 {
		t.Errorf("the other service got %d queries, want 1", n)
	}
}

// TestAllSilent uses the default timeouts: a client has to receive the error within 4 s.
func TestAllSilent(t *testing.T) {
	t.Parallel()
	var servers []*dnstest.Server
	for range 3 {
		servers = append(servers, servertest.Serve(t, dnstest.Silent(), nil))
	}
	g := group(t, servers...)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err := servertest.AskContext(ctx, t, g, "www.example.")
	if ctx.Err() != nil {
		t.Error("the error came after the client's timeout")
	}
	for i, s := range servers {
		servertest.WantEDE(t, err, wire.EDENoReachableAuthority, Server{Addr: s.Addr(), Name: servertest.Name}.String()+": ")
		if n := s.Stats().Queries(); n == 0 {
			t.Errorf("server %d was not asked", i+1)
		}
	}
}

// TestShortDeadline: the caller's deadline applies if it is earlier, and is not recorded as
// a failure of the server.
func TestShortDeadline(t *testing.T) {
	s := servertest.Serve(t, dnstest.Silent(), nil)
	g := group(t, s)
	_, err := g.Exchange(t.Context(), servertest.Query("www.example.", dnstest.TypeA), time.Now().Add(50*time.Millisecond))
	servertest.WantEDE(t, err, wire.EDENoReachableAuthority, "no answer within ")
	if st := g.Stats().Servers[0]; st.LastError != "" {
		t.Errorf("stats %+v, want no failure after 50 ms", st)
	}
}

// TestMixed: the errors of several servers are combined.
func TestMixed(t *testing.T) {
	s1 := servertest.Serve(t, servertest.Zone(t), func(c *dnstest.Config) {
		c.Certificate = servertest.Issue(t, dnstest.CertOptions{Names: []string{"x.example"}})
	})
	s2 := servertest.Serve(t, dnstest.Garbage(), nil)
	_, err := servertest.Ask(t, group(t, s1, s2), "www.example.")
	servertest.WantEDE(t, err, wire.EDENetworkError, "its certificate is for x.example", fmt.Sprintf("%s#%s", s1.Addr(), servertest.Name))
}

// TestBackoffDoesNotDelay: servers that are backed off for half a minute, for example
// because there was no network for long, are asked at once if no other server is healthy.
func TestBackoffDoesNotDelay(t *testing.T) {
	for n := range 2 {
		servers := []*dnstest.Server{servertest.Serve(t, servertest.Zone(t), nil), servertest.Serve(t, servertest.Zone(t), nil)}[:n+1]
		g := groupOf(t, hasty(servers...))
		for _, e := range g.endpoints {
			for range 20 {
				e.failed(time.Now(), syscall.ENETUNREACH)
			}
			if backoff := e.stats(time.Now()).Backoff; backoff < health.BackoffMax/2 {
				t.Fatalf("it is backed off for %v", backoff)
			}
			// The picker's time is independent of the system clock.
			if backoff := time.Duration(e.backoffUntil.Load() - transport.Ticks(time.Now())); backoff < health.BackoffMax/2 || backoff > 2*health.BackoffMax {
				t.Errorf("for the picker it is backed off for %v", backoff)
			}
		}
		servertest.MustAsk(t, g, "www.example.") // within its timeout of two seconds
		healthy := func(s ServerStats) bool { return s.Backoff == 0 && s.LastError == "" }
		if st := g.Stats().Servers; !slices.ContainsFunc(st, healthy) {
			t.Errorf("%d servers: stats %+v, want one to be healthy", n+1, st)
		}
	}
}
