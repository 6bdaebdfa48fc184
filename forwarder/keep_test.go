// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// answering returns an upstream whose reply change makes from an empty one, until fails is set.
func answering(fails *atomic.Bool, change func(r *dns.Msg)) exchangeFunc {
	return func(_ context.Context, q []byte) ([]byte, error) {
		if fails.Load() {
			return nil, errors.New("the cable is cut")
		}
		m := new(dns.Msg)
		if err := m.Unpack(q); err != nil {
			return nil, err
		}
		m.Response = true
		change(m)
		return m.Pack()
	}
}

// addAddress adds the address of a name to its reply.
func addAddress(r *dns.Msg, ttl uint32) {
	r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: []byte{192, 0, 2, 99}}}
}

// TestSuperseded: an answer that is not stored removes the expired one, which is not served stale
// later, whether it was stored with DO or without.
func TestSuperseded(t *testing.T) {
	for what, tc := range map[string]struct {
		change func(r *dns.Msg)
		kept   bool // for queries with the other DO
	}{
		"TTL 0":                {func(r *dns.Msg) { addAddress(r, 0) }, false},
		"NODATA without SOA":   {func(*dns.Msg) {}, false},
		"NXDOMAIN without SOA": {func(r *dns.Msg) { r.Rcode = dns.RcodeNameError }, false},
		"without signatures":   {func(r *dns.Msg) { addAddress(r, 300); r.Extra = nil }, true},
	} {
		for _, do := range []bool{false, true} {
			if tc.kept && !do {
				continue // that reply is stored
			}
			var fails atomic.Bool
			c := staleCache(t)
			at := start(t, Config{Upstream: answering(&fails, tc.change), Cache: c, StaleAfter: time.Minute, Timeout: time.Minute}, "127.0.0.1:0")
			with, other := question("www.example.com", dns.TypeA), question("www.example.com", dns.TypeA)
			with.SetEdns0(1232, do)
			other.SetEdns0(1232, !do)
			put(t, c, with, 30*time.Minute)
			put(t, c, other, 30*time.Minute)
			want := new(dns.Msg)
			tc.change(want.SetQuestion("www.example.com.", dns.TypeA))
			if r := ask(t, "udp", at, with); r.Rcode != want.Rcode || len(r.Answer) != len(want.Answer) || ede(r) != nil {
				t.Fatalf("%s, DO %t: %v", what, do, r)
			}
			fails.Store(true)
			if r := ask(t, "udp", at, with); r.Rcode != dns.RcodeServerFailure {
				t.Errorf("%s, DO %t: the answer before it is served: %v", what, do, r)
			}
			if r := ask(t, "udp", at, other); isStale(r, dns.ExtendedErrorCodeStaleAnswer) != tc.kept {
				t.Errorf("%s, DO %t: with the other DO: %v", what, do, r)
			}
		}
	}
}

// TestFailureSupersedesNothing: after a failure the expired answer remains.
func TestFailureSupersedesNothing(t *testing.T) {
	var fails atomic.Bool
	c := staleCache(t)
	at := start(t, Config{Upstream: answering(&fails, func(r *dns.Msg) { r.Rcode = dns.RcodeServerFailure }), Cache: c, StaleAfter: time.Minute, Timeout: time.Minute}, "127.0.0.1:0")
	m := withEDNS("www.example.com", dns.TypeA)
	put(t, c, m, 30*time.Minute)
	for range 2 {
		if r := ask(t, "udp", at, m); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) || r.Answer[0].Header().Ttl != wire.StaleTTL {
			t.Errorf("want a stale answer, got %v", r)
		}
	}
}
