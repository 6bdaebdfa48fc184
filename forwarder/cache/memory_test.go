// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// TestBytesAreAccurate compares Stats.Bytes with the growth of the heap.
func TestBytesAreAccurate(t *testing.T) {
	for _, records := range []int{1, 20} {
		answer := ""
		for i := range records {
			answer += fmt.Sprintf("www.example. 300 IN A 192.0.2.%d\n", i)
		}
		q, r := exchange(t, "www.example.", dns.RcodeSuccess, answer, "")
		key := wire.AppendKey(nil, &q)
		before := heap()
		c := newCache(t, Config{MaxBytes: 1 << 30})
		const n = 50_000
		for i := range n {
			number(key, &r, i)
			c.Put(key, &r, t0)
		}
		s := c.Stats()
		took := int64(heap() - before)
		t.Logf("%d records: %d bytes per entry counted, %d in the heap", records, s.Bytes/n, took/n)
		if s.Entries != n || s.Bytes < took*3/4 || s.Bytes > took*3/2 {
			t.Errorf("%d records: %d entries, the cache counts %d bytes, the heap %d", records, s.Entries, s.Bytes, took)
		}
		runtime.KeepAlive(c)
	}
}

// TestFullCacheIsAccurate: a full cache that is still written to uses the configured
// memory.
func TestFullCacheIsAccurate(t *testing.T) {
	const bound = 4 << 20
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	before := heap()
	c := newCache(t, Config{MaxBytes: bound})
	for i := range 50_000 { // about as many as number can make
		number(key, &r, i)
		c.Put(key, &r, t0)
	}
	s := c.Stats()
	took := int64(heap() - before)
	t.Logf("%d entries: %d bytes counted, %d in the heap", s.Entries, s.Bytes, took)
	if s.Bytes > bound || s.Bytes < bound*9/10 || took > bound*11/10 {
		t.Errorf("the cache counts %d bytes, the heap %d: want %d", s.Bytes, took, bound)
	}
	runtime.KeepAlive(c)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestConcurrentUse(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 256 << 10, MaxStale: time.Hour, Prefetch: true})
	var wg sync.WaitGroup
	for g := range 4 {
		q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
		_, bad := exchange(t, "www.example.", dns.RcodeServerFailure, "", "")
		wg.Go(func() {
			key := wire.AppendKey(nil, &q)
			var buf []byte
			var a Answer
			for i := range 5000 {
				number(key, &r, i*(g+1)%1500)
				number(key, &bad, i*(g+1)%1500)
				now := t0.Add(time.Duration(i/10) * time.Second)
				switch c.Get(key, now, &a) {
				case Fresh, Stale:
					buf = a.Append(buf[:0], &q, 0)
				case Miss:
					c.Put(key, &r, now)
				}
				switch {
				case i%7 == 0:
					c.Put(key, &bad, now)
				case i%11 == 0:
					c.Failed(key, now)
				case i%500 == 0:
					if err := c.Configure(Config{MaxBytes: int64(128+i/50) << 10, MaxStale: time.Hour, Prefetch: true}); err != nil {
						t.Error(err)
					}
				case i == 2501 && g == 0:
					c.Flush()
				case i%1000 == 1:
					var file bytes.Buffer
					if err := c.Save(&file, now); err != nil {
						t.Error(err)
					}
					if _, err := c.Load(&file, now); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.Hits+s.Stale+s.Misses != 20_000 || s.Bytes > 256<<10 {
		t.Errorf("%+v", s)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	for name, ede := range map[string][]dns.EDNS0{"plain": nil, "with EDE": {&dns.EDNS0_EDE{InfoCode: 3, ExtraText: "why"}}} {
		c := newCache(t, Config{Prefetch: true})
		q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "", ede...)
		c.Put(wire.AppendKey(nil, &q), &r, t0)
		out, key := make([]byte, 0, 2048), make([]byte, 0, wire.MaxKeyLen)
		if n := testing.AllocsPerRun(1000, func() { out, key = hit(t, c, q.Msg, out, key) }); n != 0 {
			t.Errorf("%s: a cache hit makes %v allocations", name, n)
		}
	}
}

// hit does everything that is necessary to answer a query from the cache.
func hit(t testing.TB, c *Cache, msg, out, key []byte) ([]byte, []byte) {
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	key = wire.AppendKey(key[:0], &q)
	var a Answer
	if c.Get(key, t0.Add(10*time.Second), &a) != Fresh {
		t.Fatal("a miss")
	}
	return a.Append(out[:0], &q, q.UDPLimit()), key
}

func BenchmarkCacheHit(b *testing.B) {
	c := newCache(b, Config{Prefetch: true})
	q, r := exchange(b, "www.example.", dns.RcodeSuccess, positive, "")
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		out, key := make([]byte, 0, 2048), make([]byte, 0, wire.MaxKeyLen)
		for pb.Next() {
			out, key = hit(b, c, q.Msg, out, key)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	c := newCache(b, Config{})
	q, r := exchange(b, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		number(key, &r, i)
		c.Put(key, &r, t0)
	}
}

// BenchmarkEntryMemory does not measure time but memory per entry, in the heap and as
// counted, in a cache of a million small entries.
func BenchmarkEntryMemory(b *testing.B) {
	const n = 1_000_000
	q, r := exchange(b, "r0-0000000.example.", dns.RcodeSuccess, "r0-0000000.example. 300 IN A 192.0.2.1\n", "")
	key := wire.AppendKey(nil, &q)
	for b.Loop() {
		before := heap()
		c := newCache(b, Config{MaxBytes: 1 << 30})
		for i := range n {
			label := fmt.Sprintf("r0-%07d", i)
			copy(key[1:], label)
			copy(r.Msg[wire.HeaderLen+1:], label)
			c.Put(key, &r, t0)
		}
		s := c.Stats()
		if s.Entries != n {
			b.Fatalf("%d entries", s.Entries)
		}
		b.ReportMetric(float64(heap()-before)/n, "heap-B/entry")
		b.ReportMetric(float64(s.Bytes)/n, "counted-B/entry")
		c.Close()
	}
}
