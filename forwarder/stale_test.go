// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// staleCache keeps what has expired for an hour.
func staleCache(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.New(cache.Config{MaxStale: time.Hour, Prefetch: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// put has the cache keep the zone's answer to m as if it had come that long ago.
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

// withEDNS is a question of a client that can be told of errors.
func withEDNS(name string, qtype uint16) *dns.Msg {
	m := question(name, qtype)
	m.SetEdns0(1232, false)
	return m
}

// isStale reports whether r is an expired answer, and says so.
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

// TestStaleAfter: while the upstream is silent, a client is given what has expired
// once it has waited long enough, and those who come after it do not wait; what the
// upstream says at last is for those who come then.
func TestStaleAfter(t *testing.T) {
	release := make(chan struct{})
	good := newZoneUpstream(t)
	var asked atomic.Int64
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		asked.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return good.answer(ctx, q)
	})
	c := staleCache(t)
	at := start(t, Config{Upstream: up, Cache: c, StaleAfter: 100 * time.Millisecond, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 30*time.Minute)
	began := time.Now()
	for i := range 5 {
		for _, proto := range []string{"udp", "tcp"} {
			if r := ask(t, proto, at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) {
				t.Fatalf("query %d over %s: want a stale answer, got %v", i, proto, r)
			}
			if i == 0 && proto == "udp" && time.Since(began) < 100*time.Millisecond {
				t.Error("the first client did not wait for the upstream")
			}
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once while it owes an answer", n)
	}
	close(release)
	waitFor(t, "the refreshed answer", func() bool {
		r := ask(t, "udp", at, m)
		return ede(r) == nil && r.Answer[0].Header().Ttl > wire.StaleTTL
	})
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
}

// TestStaleOnFailure: a failure of any kind is no answer where there is a stale one.
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
				for range 2 { // the second one does not even ask
					r := ask(t, "udp", at, m)
					if isStale(r, tc.code) != tc.stale || !tc.stale && r.Rcode == dns.RcodeSuccess {
						t.Errorf("%s: got %v", tc.name, r)
					}
				}
			}
		})
	}
}

// TestStaleWhenOverloaded: who is one too many gets what is stale.
func TestStaleWhenOverloaded(t *testing.T) {
	block := exchangeFunc(func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	c := staleCache(t)
	f, at := startForwarder(t, Config{Upstream: block, Cache: c, MaxMisses: 1, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 30*time.Minute)
	f.flights.misses.taken.Add(1) // as if another query was in flight
	defer f.flights.misses.taken.Add(-1)
	if r := ask(t, "udp", at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) {
		t.Errorf("got %v", r)
	}
}

// TestPrefetch: a popular answer that is about to expire is asked for again behind
// its client's back, once.
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
		t.Errorf("the upstream was asked %d times, want once", n)
	}
}

// TestCachedError: an upstream's SERVFAIL is not asked for again at once, and says
// that it is from the cache (RFC 8914 §4.14).
func TestCachedError(t *testing.T) {
	up := newZoneUpstream(t)
	at := start(t, Config{Upstream: up, Cache: staleCache(t)}, "127.0.0.1:0")
	for i := range 3 {
		r := ask(t, "udp", at, withEDNS("servfail.example.com", dns.TypeA))
		e := ede(r)
		if r.Rcode != dns.RcodeServerFailure || (e != nil && e.InfoCode == dns.ExtendedErrorCodeCachedError) != (i > 0) {
			t.Errorf("answer %d: %s with %v", i, dns.RcodeToString[r.Rcode], e)
		}
	}
	if n := up.asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
}
