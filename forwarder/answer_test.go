// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/cache"
)

// TestUnsignedFromSigned: after a query with DO=1 one with DO=0 is answered from the cache,
// without signatures, and a stale one too. AD is sent to clients that ask for it.
func TestUnsignedFromSigned(t *testing.T) {
	zone := newZoneUpstream(t)
	var fails atomic.Bool
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		if fails.Load() {
			return nil, explained{}
		}
		reply, err := zone.answer(ctx, q)
		if err == nil {
			reply[3] |= 0x20 // AD
		}
		return reply, err
	})
	c := staleCache(t)
	at := start(t, Config{Upstream: up, Cache: c}, "127.0.0.1:0")
	signed := question("signed.example.com", dns.TypeA)
	signed.SetEdns0(1232, true)
	if r := ask(t, "udp", at, signed); len(r.Answer) < 2 {
		t.Fatalf("not signed: %v", r)
	}
	before := zone.asked.Load()
	for _, ad := range []bool{false, true} {
		m := question("signed.example.com", dns.TypeA)
		m.AuthenticatedData = ad
		r := ask(t, "udp", at, m)
		if len(r.Answer) != 1 || r.Answer[0].Header().Rrtype != dns.TypeA || r.AuthenticatedData != ad || r.IsEdns0() != nil {
			t.Errorf("AD %v: %v", ad, r)
		}
	}
	if n := zone.asked.Load() - before; n != 0 {
		t.Errorf("the upstream got %d more queries", n)
	}
	// Stale: only an answer for DO=1 is stored.
	c.Flush()
	put(t, c, signed, 30*time.Minute)
	fails.Store(true)
	plain := withEDNS("signed.example.com", dns.TypeA)
	if r := ask(t, "udp", at, plain); !isStale(r, dns.ExtendedErrorCodeStaleAnswer) || len(r.Answer) != 1 {
		t.Errorf("want the stale answer without signatures: %v", r)
	}
}

// TestUnsignedWithCD: with CD=1 the answer for DO=0 is not made of the one for DO=1, because DNS64
// translates only the first. Explain reports the same.
func TestUnsignedWithCD(t *testing.T) {
	var asked atomic.Int32
	up := exchangeFunc(func(ctx context.Context, q []byte) ([]byte, error) {
		asked.Add(1)
		return recordsUpstream(true, []string{"www.example.com. 300 IN A 192.0.2.1"}, nil)(ctx, q)
	})
	f, at := startForwarder(t, Config{Upstream: up, Cache: newCache(t)}, "127.0.0.1:0")
	for _, cd := range []bool{false, true} {
		asked.Store(0)
		m := question("www.example.com", dns.TypeA)
		m.CheckingDisabled = cd
		signed := m.Copy()
		signed.SetEdns0(1232, true)
		ask(t, "udp", at, signed)
		msg, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		e, err := f.Explain(msg, Origin{})
		if err != nil || (e.Cached.State == cache.Fresh) == cd || e.CachedDO.State != cache.Fresh {
			t.Errorf("CD %t: %+v, %v", cd, e, err)
		}
		ask(t, "udp", at, m)
		if n := asked.Load(); (n == 2) != cd {
			t.Errorf("CD %t: the upstream received %d queries", cd, n)
		}
	}
}

// TestTruncatedByUpstream: a truncated reply of the upstream is a failure, over UDP and TCP.
func TestTruncatedByUpstream(t *testing.T) {
	up := exchangeFunc(func(_ context.Context, q []byte) ([]byte, error) {
		m := new(dns.Msg)
		if err := m.Unpack(q); err != nil {
			return nil, err
		}
		m.Response, m.Truncated = true, true
		return m.Pack()
	})
	at := start(t, Config{Upstream: up, Cache: staleCache(t)}, "127.0.0.1:0")
	for _, proto := range []string{"udp", "tcp"} {
		if r := ask(t, proto, at, withEDNS(proto+".example.com", dns.TypeA)); r.Rcode != dns.RcodeServerFailure || r.Truncated {
			t.Errorf("%s: %v", proto, r)
		}
	}
}

// recordsUpstream answers every query with these records in presentation form.
func recordsUpstream(compress bool, answer, extra []string) exchangeFunc {
	return func(_ context.Context, q []byte) ([]byte, error) {
		m := new(dns.Msg)
		if err := m.Unpack(q); err != nil {
			return nil, err
		}
		m.Response, m.Compress = true, compress
		for i, texts := range [][]string{answer, extra} {
			for _, text := range texts {
				rr, err := dns.NewRR(text)
				if err != nil {
					return nil, err
				}
				if i == 0 {
					m.Answer = append(m.Answer, rr)
				} else {
					m.Extra = append(m.Extra, rr)
				}
			}
		}
		return m.Pack()
	}
}

// TestMailServers: ten mail servers with their addresses, for a client without EDNS: the
// answer is complete and not truncated, whether the upstream compresses or not, and from the
// cache as well.
func TestMailServers(t *testing.T) {
	var answer, extra []string
	for i := range 10 {
		answer = append(answer, fmt.Sprintf("mail.example.com. 300 IN MX %d a-mail-server-%d.example.com.", i, i))
		extra = append(extra, fmt.Sprintf("a-mail-server-%d.example.com. 300 IN A 192.0.2.%d", i, i), fmt.Sprintf("a-mail-server-%d.example.com. 300 IN AAAA 2001:db8::%d", i, i))
	}
	for _, compress := range []bool{true, false} {
		at := start(t, Config{Upstream: recordsUpstream(compress, answer, extra), Cache: newCache(t)}, "127.0.0.1:0")
		for range 2 {
			m := question("mail.example.com", dns.TypeMX)
			r := ask(t, "udp", at, m)
			if r.Compress = true; r.Truncated || len(r.Answer) != 10 || r.Len() > 512 {
				t.Errorf("compressed by the upstream %v: %d bytes, %v", compress, r.Len(), r)
			}
			if r := ask(t, "tcp", at, m); len(r.Extra) != 20 {
				t.Errorf("over TCP: %v", r)
			}
		}
	}
}

// TestFirstClient: the client whose query fills the cache gets the TTL limits, and addresses
// in another order each time unless the order is fixed.
func TestFirstClient(t *testing.T) {
	c, err := cache.New(cache.Config{MaxTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	up := recordsUpstream(true, []string{"www.example.com. 86400 IN A 192.0.2.1", "www.example.com. 86400 IN A 192.0.2.2", "www.example.com. 86400 IN A 192.0.2.3"}, nil)
	for _, cached := range []*cache.Cache{c, nil} {
		f, at := startForwarder(t, Config{Upstream: up, Cache: cached}, "127.0.0.1:0")
		first := func() int {
			all := map[string]bool{}
			for i := range 30 {
				m := question("www.example.com", dns.TypeA)
				m.Id = uint16(i)
				r := ask(t, "udp", at, m)
				if want := map[bool]uint32{true: 60, false: 86400}[cached != nil]; len(r.Answer) != 3 || r.Answer[0].Header().Ttl > want || r.Answer[0].Header().Ttl+30 < want {
					t.Fatalf("want TTL %d: %v", want, r)
				}
				all[r.Answer[0].(*dns.A).A.String()] = true
			}
			return len(all)
		}
		if n := first(); n != 3 {
			t.Errorf("%d addresses were first, want 3", n)
		}
		f.SetFixedOrder(true)
		if n := first(); n != 1 {
			t.Errorf("with a fixed order %d addresses were first", n)
		}
	}
}
