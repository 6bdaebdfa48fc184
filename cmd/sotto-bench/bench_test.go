// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/internal/dnstest"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, tc := range []struct {
		of    []time.Duration
		share float64
		want  time.Duration
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{hundred[:1], 0.5, 1}, {hundred[:3], 0.5, 2}, {hundred[:10], 0.99, 10},
	} {
		if got := percentile(tc.of, tc.share); got != tc.want {
			t.Errorf("%v of %d: %d, want %d", tc.share, len(tc.of), got, tc.want)
		}
	}
}

func TestQuery(t *testing.T) {
	var q dns.Msg
	if err := q.Unpack(appendQuery(nil, "hit-1.bench.example")); err != nil {
		t.Fatal(err)
	}
	if len(q.Question) != 1 || q.Question[0] != (dns.Question{Name: "hit-1.bench.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}) || !q.RecursionDesired {
		t.Errorf("query %v", &q)
	}
}

// serve answers queries over UDP with h until the test ends.
func serve(t *testing.T, h dnstest.Handler) (*dnstest.Server, netip.AddrPort) {
	t.Helper()
	tl, pc, err := dnstest.ListenPlain(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dnstest.New(dnstest.Config{Handler: h, TCP: []net.Listener{tl}, UDP: []net.PacketConn{pc}, LogQueries: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, netip.MustParseAddrPort(pc.LocalAddr().String())
}

func zone(t *testing.T) *dnstest.Zone {
	t.Helper()
	z, err := dnstest.NewZone(dnstest.ZoneConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestLoad checks that every query is sent, each miss for a different name, and that
// latencies are measured.
func TestLoad(t *testing.T) {
	const delay = 20 * time.Millisecond
	s, addr := serve(t, dnstest.Delay(delay, zone(t)))
	o, err := load{server: addr, rate: 500, length: 400 * time.Millisecond, hits: 10, missEvery: 4, prefix: "new"}.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.sent != 200 || len(o.latencies) != 200 {
		t.Fatalf("sent %d, answered %d; want 200", o.sent, len(o.latencies))
	}
	for _, l := range o.latencies {
		if l < delay || l > time.Minute {
			t.Fatalf("latency %v of a server with a delay of %v", l, delay)
		}
	}
	if o.elapsed < 398*time.Millisecond {
		t.Errorf("sent in %v: faster than the rate", o.elapsed)
	}
	queries := map[string]int{}
	for _, q := range s.Log() {
		queries[q.Name]++
	}
	hits, misses := 0, 0
	for name, n := range queries {
		switch {
		case strings.HasPrefix(name, "hit-"):
			hits++
		case n == 1:
			misses++
		default:
			t.Errorf("%s was queried %d times", name, n)
		}
	}
	if hits != 10 || misses != 50 {
		t.Errorf("%d cacheable names and %d new ones, want 10 and 50", hits, misses)
	}
}

// TestLoadFailures checks that SERVFAIL does not count as an answer.
func TestLoadFailures(t *testing.T) {
	_, addr := serve(t, dnstest.Rcode(dnstest.RcodeServFail))
	o, err := load{server: addr, rate: 500, length: 50 * time.Millisecond, hits: 1}.run(t.Context())
	if err != nil || o.sent != 25 || len(o.latencies) != 0 {
		t.Errorf("%d sent, %d answered, %v; want 25 and none", o.sent, len(o.latencies), err)
	}
}

func TestTarget(t *testing.T) {
	for name, tc := range map[string]struct {
		h        dnstest.Handler
		answered bool
		queries  int
	}{
		"an answer": {zone(t), true, 5},
		"SERVFAIL":  {dnstest.Rcode(dnstest.RcodeServFail), false, maxFailures},
	} {
		s, addr := serve(t, tc.h)
		nc, err := net.Dial("udp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		a := &target{name: "peer.closed", conn: nc}
		for range 5 {
			if latency := a.measure(); (latency < answerTimeout) != tc.answered {
				t.Errorf("%s: latency %v", name, latency)
			}
		}
		seen := map[string]bool{}
		for _, q := range s.Log() {
			seen[q.Name] = true
		}
		if len(seen) != tc.queries {
			t.Errorf("%s: queries for %v, want %d names", name, seen, tc.queries)
		}
	}
}

// TestUpstream checks that the server uses the certificate that certCommand wrote, which is
// valid only for the name, and that it delays its replies.
func TestUpstream(t *testing.T) {
	dir := t.TempDir()
	if err := certCommand(t.Context(), []string{"-dir", dir, "-name", "dns.example"}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String() // free after Close
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- upstreamCommand(ctx, []string{"-listen", addr, "-dir", dir, "-delay", "50ms"}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	c := &dns.Client{Net: "tcp-tls", Timeout: 10 * time.Second, TLSConfig: &tls.Config{RootCAs: pool, ServerName: "dns.example"}}
	q := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
	var r *dns.Msg
	var rtt time.Duration
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r, rtt, err = c.Exchange(q, addr); err == nil {
			break
		}
	}
	if err != nil || len(r.Answer) != 1 || r.Answer[0].Header().Ttl != uint32(recordTTL/time.Second) || rtt < 50*time.Millisecond {
		t.Fatalf("%v after %v, %v", r, rtt, err)
	}
	c.TLSConfig.ServerName = "127.0.0.1"
	if _, _, err := c.Exchange(q, addr); err == nil {
		t.Error("the certificate is also valid for the address")
	}
}
