// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// t0 is when the tests' fake clock starts.
var t0 = time.Unix(1_700_000_000, 0)

// exchange returns the parsed query for name and the upstream's reply to it.
func exchange(t testing.TB, name string, rcode int, answer, ns string, ede ...dns.EDNS0) (wire.Query, wire.Reply) {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	resp := new(dns.Msg)
	resp.SetRcode(m, rcode)
	resp.Compress = true
	for _, s := range []struct {
		text string
		to   *[]dns.RR
	}{{answer, &resp.Answer}, {ns, &resp.Ns}} {
		zp := dns.NewZoneParser(bytes.NewReader([]byte(s.text)), "", "")
		for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
			*s.to = append(*s.to, rr)
		}
		if err := zp.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if len(ede) > 0 {
		resp.SetEdns0(1232, false)
		resp.IsEdns0().Option = ede
	}
	if b, err = resp.Pack(); err != nil {
		t.Fatal(err)
	}
	r, err := wire.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	return q, r
}

func newCache(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const (
	positive = "www.example. 300 IN A 192.0.2.1\n"
	negative = "example. 600 IN SOA ns. host. 1 2 3 4 400\n"
)

func TestGetAndAge(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	if _, ok := c.Get(key, t0); ok {
		t.Fatal("a hit in an empty cache")
	}
	c.Put(key, &r, t0)
	for i := range r.Msg {
		r.Msg[i] = 0xEE // the cache has its own copy
	}
	for _, tt := range []struct {
		after time.Duration
		ttl   uint32
		hit   bool
	}{
		{0, 300, true},
		{999 * time.Millisecond, 300, true},
		{100 * time.Second, 200, true},
		{299*time.Second + 999*time.Millisecond, 1, true},
		{300 * time.Second, 0, false},
		{time.Hour, 0, false},
		{-time.Second, 300, true}, // a reader that read its clock before the writer
		{-time.Hour, 0, false},    // the clock was set back
	} {
		e, ok := c.Get(key, t0.Add(tt.after))
		if ok != tt.hit {
			t.Errorf("after %v: hit is %v, want %v", tt.after, ok, tt.hit)
		}
		if !ok {
			continue
		}
		m := new(dns.Msg)
		if err := m.Unpack(wire.AppendReply(nil, &q, &e.Reply, e.Age(t0.Add(tt.after)), 0)); err != nil {
			t.Fatal(err)
		}
		if got := m.Answer[0].Header().Ttl; got != tt.ttl {
			t.Errorf("after %v: TTL %d, want %d", tt.after, got, tt.ttl)
		}
	}
	if e, _ := c.Get(key, t0.Add(time.Minute)); e.Left(t0.Add(time.Minute)) != 4*time.Minute {
		t.Errorf("left after a minute: %v, want 4m", e.Left(t0.Add(time.Minute)))
	}
	c.Flush()
	if _, ok := c.Get(key, t0); ok {
		t.Error("a hit after Flush")
	}
	s := c.Stats()
	if s.Hits != 6 || s.Misses != 5 || s.Entries != 0 || s.Bytes != 0 || s.Evictions != 0 {
		t.Errorf("%+v: want 6 hits, 5 misses, nothing held, nothing evicted", s)
	}
}

func TestWhatIsKept(t *testing.T) {
	ede := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: "why"}
	for _, tt := range []struct {
		name   string
		cfg    Config
		rcode  int
		answer string
		ns     string
		edit   func(*wire.Reply)
		want   time.Duration // 0: not kept
	}{
		{name: "positive", answer: positive, want: 300 * time.Second},
		{name: "NXDOMAIN, RFC 2308 §5", rcode: dns.RcodeNameError, ns: negative, want: 400 * time.Second},
		{name: "NODATA", ns: negative, want: 400 * time.Second},
		{name: "NXDOMAIN without SOA", rcode: dns.RcodeNameError},
		{name: "SERVFAIL", rcode: dns.RcodeServerFailure, answer: positive},
		{name: "SERVFAIL that claims a TTL", rcode: dns.RcodeServerFailure, answer: positive,
			edit: func(r *wire.Reply) { r.TTL = 300 }},
		{name: "TC that claims a TTL", answer: positive, edit: func(r *wire.Reply) { r.TC = true }},
		{name: "TTL 0", answer: "www.example. 0 IN A 192.0.2.1\n", cfg: Config{MinTTL: time.Minute}},
		{name: "MinTTL", answer: positive, cfg: Config{MinTTL: time.Hour}, want: time.Hour},
		{name: "MaxTTL", answer: positive, cfg: Config{MaxTTL: time.Minute}, want: time.Minute},
		{name: "MaxTTL bounds negative replies too", ns: negative, cfg: Config{MaxTTL: time.Minute}, want: time.Minute},
		{name: "MaxNegativeTTL", ns: negative, cfg: Config{MaxNegativeTTL: time.Minute}, want: time.Minute},
		{name: "MaxNegativeTTL leaves positive replies", answer: positive, cfg: Config{MaxNegativeTTL: time.Minute}, want: 300 * time.Second},
		{name: "the default's longest", answer: "www.example. 2000000 IN A 192.0.2.1\n", want: 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(t, tt.cfg)
			q, r := exchange(t, "www.example.", tt.rcode, tt.answer, tt.ns, ede)
			if tt.edit != nil {
				tt.edit(&r)
			}
			key := wire.AppendKey(nil, &q)
			c.Put(key, &r, t0)
			e, ok := c.Get(key, t0)
			if ok != (tt.want != 0) || ok != (c.Stats().Entries == 1) {
				t.Fatalf("kept: %v (%+v)", ok, c.Stats())
			}
			if !ok {
				return
			}
			if got := e.Left(t0); got != tt.want {
				t.Errorf("kept for %v, want %v", got, tt.want)
			}
			// A client counts from what it is told: never longer than we do,
			// and with a raised TTL not less.
			for _, off := range e.Reply.TTLs {
				ttl := time.Duration(binary.BigEndian.Uint32(e.Reply.Msg[off:])) * time.Second
				if ttl != tt.want {
					t.Errorf("a record's TTL is %v, want %v", ttl, tt.want)
				}
			}
			if len(e.Reply.EDE) != 1 || e.Reply.EDE[0].Text != "why" {
				t.Errorf("EDE %+v", e.Reply.EDE)
			}
		})
	}
}

// TestCopies: more records than fit an Entry itself, and the copy is whole.
func TestCopies(t *testing.T) {
	c := newCache(t, Config{})
	answer := ""
	for i := range 3 * fewTTLs {
		answer += fmt.Sprintf("www.example. %d IN A 192.0.2.%d\n", 100+i, i)
	}
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, answer, "", &dns.EDNS0_EDE{InfoCode: 3})
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	want := wire.AppendReply(nil, &q, &r, 7, 0)
	clear(r.Msg)
	clear(r.TTLs)
	clear(r.EDE)
	clear(key[:5])
	e, ok := c.Get(wire.AppendKey(nil, &q), t0.Add(7*time.Second))
	if !ok {
		t.Fatal("a miss")
	}
	if got := wire.AppendReply(nil, &q, &e.Reply, 7, 0); !bytes.Equal(got, want) || e.Reply.EDE[0].Code != 3 {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestServFailNeverReplacesGoodData(t *testing.T) {
	c := newCache(t, Config{})
	q, good := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	_, bad := exchange(t, "www.example.", dns.RcodeServerFailure, "", "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &good, t0)
	c.Put(key, &bad, t0.Add(time.Second))
	if e, ok := c.Get(key, t0.Add(2*time.Second)); !ok || e.Reply.Rcode != wire.RcodeSuccess {
		t.Error("the good answer is gone")
	}
	// A later good answer does replace it, and starts its own count.
	c.Put(key, &good, t0.Add(200*time.Second))
	if e, ok := c.Get(key, t0.Add(400*time.Second)); !ok || e.Age(t0.Add(400*time.Second)) != 200 {
		t.Error("the newer answer did not take the older one's place")
	}
}

// TestCollisionIsAMiss stores an entry where another key's hash leads.
func TestCollisionIsAMiss(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	e, _ := c.Get(key, t0)
	e.key = append([]byte(nil), key...)
	e.key[len(key)-1] ^= 1
	if _, ok := c.Get(key, t0); ok {
		t.Error("answered from another key's entry")
	}
}

func TestBoundHolds(t *testing.T) {
	const bound = 1 << 20
	c := newCache(t, Config{MaxBytes: bound})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	for i := range 20_000 {
		binary.BigEndian.PutUint32(key, uint32(i))
		c.Put(key, &r, t0)
	}
	s := c.Stats()
	if s.Bytes > bound || s.Bytes < bound/2 {
		t.Errorf("%d bytes held after many writes: want at most %d, and not much less", s.Bytes, bound)
	}
	if s.Evictions == 0 || s.Entries >= 20_000 || s.Entries == 0 {
		t.Errorf("%+v", s)
	}
}

func TestBigEntryIsNotKept(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 1 << 20})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	r.Msg = append(r.Msg, make([]byte, 1<<20/fairShare)...)
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	if _, ok := c.Get(key, t0); ok {
		t.Error("an entry above its fair share was kept")
	}
}

// TestBytesAreHonest compares what the cache says it takes with what the heap
// grew by.
func TestBytesAreHonest(t *testing.T) {
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
			binary.BigEndian.PutUint32(key, uint32(i))
			c.Put(key, &r, t0)
		}
		s := c.Stats()
		took := int64(heap() - before)
		t.Logf("%d records: %d bytes an entry by the cache's count, %d by the heap's", records, s.Bytes/n, took/n)
		if s.Entries != n || s.Bytes < took*3/4 || s.Bytes > took*3/2 {
			t.Errorf("%d records: the cache counts %d bytes, the heap %d", records, s.Bytes, took)
		}
		runtime.KeepAlive(c)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{
		{MaxBytes: -1},
		{MaxBytes: 100},
		{MinTTL: -1},
		{MaxTTL: -1},
		{MaxNegativeTTL: -1},
		{MaxTTL: time.Millisecond},
		{MinTTL: time.Hour, MaxTTL: time.Minute},
		{MinTTL: time.Hour, MaxNegativeTTL: time.Minute},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	newCache(t, Config{MinTTL: 48 * time.Hour}) // above the defaults: they give way
}

func TestConcurrentUse(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 256 << 10})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			key := wire.AppendKey(nil, &q)
			var buf []byte
			for i := range 5000 {
				binary.BigEndian.PutUint32(key, uint32(i*(g+1)%1500))
				if e, ok := c.Get(key, t0); ok {
					buf = wire.AppendReply(buf[:0], &q, &e.Reply, e.Age(t0), 0)
				} else {
					c.Put(key, &r, t0)
				}
				if i == 2500 && g == 0 {
					c.Flush()
				}
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.Hits+s.Misses != 20_000 || s.Bytes > 256<<10 {
		t.Errorf("%+v", s)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	out, key := make([]byte, 0, 2048), make([]byte, 0, wire.MaxKeyLen)
	if n := testing.AllocsPerRun(1000, func() { out, key = hit(t, c, q.Msg, out, key) }); n != 0 {
		t.Errorf("a cache hit takes %v allocations", n)
	}
}

// hit is the whole way of a query that is answered from the cache.
func hit(t testing.TB, c *Cache, msg, out, key []byte) ([]byte, []byte) {
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	now := t0.Add(10 * time.Second)
	key = wire.AppendKey(key[:0], &q)
	e, ok := c.Get(key, now)
	if !ok {
		t.Fatal("a miss")
	}
	return wire.AppendReply(out[:0], &q, &e.Reply, e.Age(now), q.UDPLimit()), key
}

func BenchmarkCacheHit(b *testing.B) {
	c := newCache(b, Config{})
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
		binary.BigEndian.PutUint32(key, uint32(i))
		c.Put(key, &r, t0)
	}
}
