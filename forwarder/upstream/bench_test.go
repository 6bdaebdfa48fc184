// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"testing"

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

var _ dnstest.Handler = (*dnstest.Zone)(nil)
