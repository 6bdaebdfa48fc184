// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/admission"
	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// staleCache returns a cache that keeps expired answers for an hour.
func staleCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.Config{MaxStale: time.Hour, Prefetch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// put stores the zone's answer to m as if it had arrived that long ago.
func put(t *testing.T, c *cache.Cache, m *dns.Msg, ago time.Duration) {
	t.Helper()
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := newZoneUpstream(t).answer(t.Context(), wire.AppendQuery(nil, &q))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := wire.ParseReply(answer)
	if err != nil {
		t.Fatal(err)
	}
	c.Put(wire.AppendKey(nil, &q), &reply, time.Now().Add(-ago))
}

// withEDNS returns a query with EDNS, whose reply can have an Extended DNS Error.
func withEDNS(name string, qtype uint16) *dns.Msg {
	m := question(name, qtype)
	m.SetEdns0(1232, false)
	return m
}

// isStale reports whether r is a stale answer with that Extended DNS Error.
func isStale(r *dns.Msg, code uint16) bool {
	e := ede(r)
	if e == nil || e.InfoCode != code {
		return false
	}
	for _, rr := range append(r.Answer, r.Ns...) {
		if rr.Header().Ttl != wire.StaleTTL {
			return false
		}
	}
	return len(r.Answer)+len(r.Ns) > 0
}

// TestStaleAfter: while the upstream does not answer, a client gets the stale answer after
// Config.StaleAfter, and later clients get it immediately. The upstream's late answer is
// for clients after that.
func TestStaleAfter(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int64
	up := delayedUpstream(t, release, &asked)
	c := staleCache(t)
	at := start(t, Config{Upstream: up, Cache: c, StaleAfter: 100 * time.Millisecond, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 30*time.Minute)
	started := time.Now()
	for i := range 5 {
		for _, proto := range []string{"udp", "tcp"} {
			if r := ask(t, proto, at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) {
				t.Fatalf("query %d over %s: want a stale answer, got %v", i, proto, r)
			}
			if i == 0 && proto == "udp" && time.Since(started) < 100*time.Millisecond {
				t.Error("the first client did not wait for the upstream")
			}
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries, want 1 while the answer is pending", n)
	}
	close(release)
	waitFor(t, "the refreshed answer", func() bool {
		r := ask(t, "udp", at, m)
		return ede(r) == nil && r.Answer[0].Header().Ttl > wire.StaleTTL
	})
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries, want 1", n)
	}
}

// TestStaleJoinsPrefetch: an answer expires while it is refreshed. A query that joins the refresh
// gets the stale answer, and one that has none waits for the upstream.
func TestStaleJoinsPrefetch(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Int64
	c := staleCache(t)
	f, at := startForwarder(t, Config{Upstream: delayedUpstream(t, release, &asked), Cache: c, StaleAfter: 100 * time.Millisecond, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 0)
	ttl := ask(t, "udp", at, m).Answer[0].Header().Ttl
	put(t, c, m, time.Duration(ttl-ttl/20)*time.Second)
	waitFor(t, "the refresh", func() bool {
		ask(t, "udp", at, m)
		return asked.Load() == 1
	})
	c.Flush()
	fresh := make(chan *dns.Msg, 1)
	go func() {
		r, _, err := (&dns.Client{Net: "tcp", Timeout: time.Minute}).Exchange(m, at.String())
		if err != nil {
			r = new(dns.Msg)
		}
		fresh <- r
	}()
	waitFor(t, "a query without a stale answer", func() bool { return f.Stats().Waiting == 1 })
	for range 2 { // the timer starts again
		put(t, c, m, 30*time.Minute)
		if r := ask(t, "udp", at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) {
			t.Errorf("want a stale answer, got %v", r)
		}
	}
	close(release)
	if r := <-fresh; len(r.Answer) != 1 || ede(r) != nil {
		t.Errorf("without a stale answer: %v", r)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries, want 1", n)
	}
}

// TestStaleOnFailure: on a failure of any kind the stale answer is used if there is one.
func TestStaleOnFailure(t *testing.T) {
	withRcode := func(rcode int) exchangeFunc {
		return func(_ context.Context, q []byte) ([]byte, error) {
			m := new(dns.Msg)
			if err := m.Unpack(q); err != nil {
				return nil, err
			}
			m.Extra = nil
			return m.SetRcode(m, rcode).Pack()
		}
	}
	for what, up := range map[string]exchangeFunc{
		"an error": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the cable is cut") },
		"SERVFAIL": withRcode(dns.RcodeServerFailure),
		"REFUSED":  withRcode(dns.RcodeRefused),
		"FORMERR":  withRcode(dns.RcodeFormatError),
		"NOTIMP":   withRcode(dns.RcodeNotImplemented),
	} {
		t.Run(what, func(t *testing.T) {
			c := staleCache(t)
			at := start(t, Config{Upstream: up, Cache: c, StaleAfter: time.Minute, Timeout: time.Minute}, "127.0.0.1:0")
			for _, tc := range []struct {
				name  string
				stale bool
				code  uint16
			}{
				{"www.example.com", true, dns.ExtendedErrorCodeStaleAnswer},
				{"nxdomain.example.com", true, dns.ExtendedErrorCodeStaleNXDOMAINAnswer},
				{"never-asked.example.com", false, 0},
			} {
				m := withEDNS(tc.name, dns.TypeA)
				if tc.stale {
					put(t, c, m, 50*time.Minute)
				}
				for range 2 { // the second query does not go upstream
					r := ask(t, "udp", at, m)
					if isStale(r, tc.code) != tc.stale || !tc.stale && r.Rcode == dns.RcodeSuccess {
						t.Errorf("%s: got %v", tc.name, r)
					}
				}
			}
		})
	}
}

// TestStaleWhenOverloaded: a query over the limits gets the stale answer.
func TestStaleWhenOverloaded(t *testing.T) {
	block := exchangeFunc(func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	c := staleCache(t)
	f, at := startForwarder(t, Config{Upstream: block, Cache: c, MaxMisses: 1, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 30*time.Minute)
	other := admission.SourceOf("/other", netip.Addr{})
	if err := f.flights.misses.Acquire(other); err != nil { // as if another query was in flight
		t.Fatal(err)
	}
	defer f.flights.misses.Release(other)
	if r := ask(t, "udp", at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) {
		t.Errorf("got %v", r)
	}
}

// TestPrefetch: a popular answer that is about to expire is refreshed in the background,
// once.
func TestPrefetch(t *testing.T) {
	up := newZoneUpstream(t)
	c := staleCache(t)
	at := start(t, Config{Upstream: up, Cache: c}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 0)
	ttl := ask(t, "udp", at, m).Answer[0].Header().Ttl
	put(t, c, m, time.Duration(ttl-ttl/20)*time.Second)
	for range 10 {
		if r := ask(t, "udp", at, m); len(r.Answer) != 1 || ede(r) != nil {
			t.Fatalf("got %v", r)
		}
	}
	waitFor(t, "the answer to be fetched again", func() bool {
		return ask(t, "udp", at, m).Answer[0].Header().Ttl > ttl/2
	})
	if n := up.asked.Load(); n != 1 {
		t.Errorf("the upstream got %d queries, want 1", n)
	}
}

// TestRememberedFailure: after a failure of any kind other queries for the same question get
// the same rcode at once, with the reason and the Extended DNS Error for a cached error (RFC
// 8914 §4.14), until it is forgotten. A question that was not asked before is tried.
func TestRememberedFailure(t *testing.T) {
	for name, tc := range map[string]struct {
		rcode int
		err   error // in place of the upstream's reply
		text  string
	}{
		"servfail.example.com": {rcode: dns.RcodeServerFailure},
		"refused.example.com":  {rcode: dns.RcodeRefused},
		"notimp.example.com":   {rcode: dns.RcodeNotImplemented},
		"formerr.example.com":  {rcode: dns.RcodeServerFailure, text: "FORMERR"},
		"www.example.com":      {rcode: dns.RcodeServerFailure, err: explained{}, text: "this is why"},
	} {
		for _, cached := range []bool{true, false} {
			up := newZoneUpstream(t)
			cfg := Config{Upstream: exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
				reply, err := up.answer(ctx, q)
				if tc.err != nil && wire.SameQuestion(q, nameQuery(t, name)) {
					return nil, tc.err
				}
				return reply, err
			})}
			if cached {
				cfg.Cache = staleCache(t)
			}
			f, at := startForwarder(t, cfg, "127.0.0.1:0")
			check := func(queries int64) {
				t.Helper()
				for i := range 3 {
					r := ask(t, "udp", at, withEDNS(name, dns.TypeA))
					var codes []uint16
					var texts string
					for _, o := range r.IsEdns0().Option {
						if e, ok := o.(*dns.EDNS0_EDE); ok {
							codes, texts = append(codes, e.InfoCode), texts+e.ExtraText
						}
					}
					if r.Rcode != tc.rcode || slices.Contains(codes, wire.EDECachedError) != (i > 0) || !strings.Contains(texts, tc.text) {
						t.Errorf("%s, answer %d: %s with %v, %q", name, i, dns.RcodeToString[r.Rcode], codes, texts)
					}
				}
				if n := up.asked.Load(); n != queries {
					t.Errorf("%s: the upstream got %d queries, want %d", name, n, queries)
				}
			}
			check(1)
			if e, err := f.Explain(nameQuery(t, name), Origin{}); err != nil || e.Cached.Failure == nil || int(e.Cached.Failure.Rcode) != tc.rcode || e.Cached.Left <= 0 || e.CachedDO.Failure != nil {
				t.Errorf("%s: explained with %+v, %v", name, e.Cached, err)
			}
			if r := ask(t, "udp", at, withEDNS("other.example.com", dns.TypeA)); r.Rcode != dns.RcodeSuccess {
				t.Errorf("another name: %v", r)
			}
			f.NetworkChanged()
			check(3)
			f.SetRouter(nil)
			check(4)
			if err := f.FlushFailures("COM."); err != nil {
				t.Error(err)
			}
			check(5)
			if err := f.FlushFailures("org"); err != nil {
				t.Error(err)
			}
			if e := ede(ask(t, "udp", at, withEDNS(name, dns.TypeA))); e == nil || up.asked.Load() != 5 {
				t.Errorf("%s: it was forgotten with another name", name)
			}
		}
	}
}

// nameQuery returns a query for the addresses of a name.
func nameQuery(t *testing.T, name string) []byte {
	t.Helper()
	b, err := question(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unreached is the error of an upstream none of whose servers was reached.
type unreached struct{ explained }

func (unreached) Unreached() bool { return true }

// TestRecovery: local errors are not remembered, and failures in which no server was reached
// are forgotten when one replies to any query.
func TestRecovery(t *testing.T) {
	up := newZoneUpstream(t)
	var fault atomic.Pointer[error]
	f, at := startForwarder(t, Config{Cache: newCache(t), Upstream: exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		if err := fault.Load(); err != nil {
			return nil, *err
		}
		return up.answer(ctx, q)
	})}, "127.0.0.1:0")
	rcode := func(name string) int { return ask(t, "udp", at, withEDNS(name, dns.TypeA)).Rcode }
	local := errors.New("too many queries in flight")
	fault.Store(&local)
	if got := rcode("a.example.com"); got != dns.RcodeServerFailure {
		t.Errorf("rcode %d", got)
	}
	fault.Store(nil)
	if got := rcode("a.example.com"); got != dns.RcodeSuccess {
		t.Errorf("after a local error: rcode %d", got)
	}
	var down error = unreached{}
	fault.Store(&down)
	rcode("b.example.com")
	if f.flights.failures.Get(wire.AppendKey(nil, queryOf(t, "b.example.com")), time.Now()) == nil {
		t.Error("not remembered")
	}
	fault.Store(nil)
	rcode("c.example.com")
	if got := rcode("b.example.com"); got != dns.RcodeSuccess {
		t.Errorf("after the recovery: rcode %d", got)
	}
}

// queryOf returns the parsed query for the addresses of a name.
func queryOf(t *testing.T, name string) *wire.Query {
	t.Helper()
	q, err := wire.ParseQuery(nameQuery(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return &q
}
