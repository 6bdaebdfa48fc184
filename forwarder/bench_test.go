// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// BenchmarkHit is a cached answer without a socket: walker, cache, reply.
func BenchmarkHit(b *testing.B) {
	f, err := New(b.Context(), Config{Upstream: newZoneUpstream(b), Cache: newCache(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	query := fill(b, f, "www.example.com.")
	local := netip.MustParseAddr("127.0.0.1")
	out, now := make([]byte, 0, wire.UDPSize), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		r := request{start: now}
		if _, v := f.answer(out, query, local, &r); v != answered {
			b.Fatal("a miss")
		}
	}
}

// fill has the answer for name in f's cache, and returns the query for it.
func fill(tb testing.TB, f *Forwarder, name string) []byte {
	tb.Helper()
	query, err := question(name, dns.TypeA).Pack()
	if err != nil {
		tb.Fatal(err)
	}
	q, err := wire.ParseQuery(query)
	if err != nil {
		tb.Fatal(err)
	}
	r := request{q: q}
	r.route = f.route(&q, &r.origin)
	fl := &flight{key: r.appendKey(nil), up: r.route.Upstream, query: wire.AppendQuery(nil, &q)}
	if _, err := f.flights.ask(fl, time.Now().Add(time.Second)); err != nil {
		tb.Fatal(err)
	}
	return query
}

// BenchmarkUDPHit is a cached answer through a socket, a window of queries at a
// time as busy clients have.
func BenchmarkUDPHit(b *testing.B) {
	at := start(b, Config{Upstream: newZoneUpstream(b), Cache: newCache(b)}, "127.0.0.1:0")
	ask(b, "udp", at, question("www.example.com", dns.TypeA))
	query, err := question("www.example.com", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("udp", at.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	const window = 32
	buf := make([]byte, 4096)
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		n := min(window, b.N-sent)
		for range n {
			if _, err := c.Write(query); err != nil {
				b.Fatal(err)
			}
		}
		for range n {
			if _, err := c.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
		sent += n
	}
}

// BenchmarkUDPMiss is a question that nobody asked before, through a socket and
// to an upstream that answers at once.
func BenchmarkUDPMiss(b *testing.B) {
	up := exchangeFunc(func(_ context.Context, q []byte) ([]byte, error) {
		reply := append([]byte(nil), q...)
		reply[2] |= 0x80
		return reply, nil
	})
	at := start(b, Config{Upstream: up}, "127.0.0.1:0")
	query, err := question("www.example.com", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("udp", at.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(query); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
