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

// BenchmarkHit measures a cached answer without a socket: parser, cache, reply.
func BenchmarkHit(b *testing.B) { benchmarkHit(b, "www.example.com.") }

// BenchmarkHitRotated measures one with eight addresses.
func BenchmarkHitRotated(b *testing.B) { benchmarkHit(b, "a-8.example.com.") }

func benchmarkHit(b *testing.B, name string) {
	f, err := New(b.Context(), Config{Upstream: newZoneUpstream(b), Cache: newCache(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	query := fill(b, f, name)
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

// fill stores the answer for name in f's cache, and returns the query for it.
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
	fl := &flight{
		fs: f.flights, key: r.appendKey(nil), upstream: r.route.Upstream, query: wire.AppendQuery(nil, &q),
		generation: f.flights.failures.Generation(),
	}
	if _, err := f.flights.resolve(fl, time.Now().Add(time.Second)); err != nil {
		tb.Fatal(err)
	}
	return query
}

// BenchmarkUDPHit measures a cached answer through a socket, with a window of queries in
// flight as busy clients have.
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

// BenchmarkUDPMiss measures a query that is not cached, through a socket and to an
// upstream that answers immediately.
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
