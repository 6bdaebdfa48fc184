// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder"
)

// BenchmarkMiss measures a miss of an instance: without a shared cache, with one that does not
// have the answer either, with one that has it, and with one that has failed.
func BenchmarkMiss(b *testing.B) {
	for _, bc := range []struct {
		name          string
		alone, stored bool
		at            string
	}{
		{name: "alone", alone: true},
		{name: "not stored"},
		{name: "stored", stored: true},
		{name: "down", at: "127.0.0.1:1"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := startServer(b)
			o := options{store: Config{Address: s.at}, alone: bc.alone, timeout: time.Second}
			if bc.at != "" {
				o.store.Address = bc.at
			}
			up := newUpstream(b, "group")
			if bc.stored {
				first := startReplica(b, up, o)
				first.waitUp(b)
				askAll(b, first, b.N)
				until(b, "all are stored", func() bool { return first.shared.Stats().Written >= uint64(b.N) })
			}
			r := startReplica(b, up, o)
			if !bc.alone && bc.at == "" {
				r.waitUp(b)
			}
			b.ResetTimer()
			askAll(b, r, b.N)
		})
	}
}

// askAll asks for n names, one after the other.
func askAll(b *testing.B, r *replica, n int) {
	b.Helper()
	c, err := dns.Dial("udp", r.at.String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for i := range n {
		if err := c.WriteMsg(query(fmt.Sprintf("n%d.example", i), dns.TypeA, false, false)); err != nil {
			b.Fatal(err)
		}
		if _, err := c.ReadMsg(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNewInstance measures the first second of an instance with an empty cache, with and
// without a shared cache that others have filled: how many of its answers need no upstream, which
// takes 20 ms. Names are as popular as names are (Zipf).
func BenchmarkNewInstance(b *testing.B) {
	for _, alone := range []bool{true, false} {
		b.Run(map[bool]string{true: "alone", false: "shared"}[alone], func(b *testing.B) {
			s := startServer(b)
			o := options{store: Config{Address: s.at}}
			up := newUpstream(b, "group")
			first := startReplica(b, up, o)
			first.waitUp(b)
			clients(b, first, 5*time.Second)
			up.delay = 20 * time.Millisecond
			for b.Loop() {
				o.alone = alone
				r := startReplica(b, up, o)
				if !alone {
					r.waitUp(b)
				}
				n, times := clients(b, r, time.Second)
				b.ReportMetric(float64(n), "queries")
				b.ReportMetric(100*(1-float64(r.from[forwarder.FromUpstream].Load())/float64(n)), "%without-upstream")
				b.ReportMetric(float64(times.Microseconds())/float64(n), "µs/query")
			}
		})
	}
}

// clients sends queries from 16 clients for the duration, and returns how many, and the sum of
// their times.
func clients(b *testing.B, r *replica, d time.Duration) (n int64, sum time.Duration) {
	b.Helper()
	var count, times atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for i := range 16 {
		wg.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(uint64(i), 1)), 1.1, 8, 20000)
			c, err := dns.Dial("udp", r.at.String())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			for time.Now().Before(end) {
				asked := time.Now()
				if err := c.WriteMsg(query(fmt.Sprintf("n%d.example", zipf.Uint64()), dns.TypeA, false, false)); err != nil {
					b.Error(err)
				}
				if _, err := c.ReadMsg(); err != nil {
					b.Error(err)
				}
				times.Add(int64(time.Since(asked)))
				count.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return count.Load(), time.Duration(times.Load())
}
