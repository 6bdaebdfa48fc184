// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
	"sotto/internal/dnstest"
)

// BenchmarkMissDoT measures the upstream part of a cache miss, over TLS on loopback,
// including the work of the server.
func BenchmarkMissDoT(b *testing.B) {
	for _, parallel := range []int{1, 64} {
		b.Run(map[int]string{1: "lone", 64: "busy"}[parallel], func(b *testing.B) {
			s := servertest.Serve(b, servertest.Zone(b), nil)
			g := group(b, s)
			q := servertest.Query("www.example.", dnstest.TypeA)
			if _, err := g.Exchange(b.Context(), q, servertest.Deadline()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if parallel == 1 {
				for b.Loop() {
					if _, err := g.Exchange(b.Context(), q, servertest.Deadline()); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.SetParallelism(parallel)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := g.Exchange(b.Context(), q, servertest.Deadline()); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "q/s")
			b.ReportMetric(float64(b.N)/float64(g.Stats().Servers[0].Writes), "q/write")
		})
	}
}

// BenchmarkReconnect measures the first query after the server closed the connection: a TLS handshake that resumes a session, and
// the query, including the work of the server, which has the key exchanges of Go, or only the classic ones.
func BenchmarkReconnect(b *testing.B) {
	for name, groups := range map[string][]tls.CurveID{"hybrid": nil, "classic": {tls.X25519, tls.CurveP256}} {
		b.Run(name, func(b *testing.B) {
			s := servertest.Serve(b, servertest.Zone(b), func(c *dnstest.Config) { c.Groups = groups })
			g := group(b, s)
			q := servertest.Query("www.example.", dnstest.TypeA)
			ask := func() {
				if _, err := g.Exchange(b.Context(), q, servertest.Deadline()); err != nil {
					b.Fatal(err)
				}
			}
			ask()
			var took time.Duration
			n := 0
			for b.Loop() {
				s.EndConns(dnstest.Close)
				for g.Stats().Servers[0].Conns > 0 {
					time.Sleep(10 * time.Microsecond)
				}
				start := time.Now()
				ask()
				took += time.Since(start)
				n++
			}
			b.ReportMetric(float64(took.Microseconds())/float64(n), "µs/query")
		})
	}
}

var _ dnstest.Handler = (*dnstest.Zone)(nil)
