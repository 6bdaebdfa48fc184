// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

func TestGetAndAge(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	var a Answer
	if c.Get(key, t0, &a) != Miss {
		t.Fatal("a hit in an empty cache")
	}
	c.Put(key, &r, t0)
	for i := range r.Msg {
		r.Msg[i] = 0xEE // the cache has its own copy
	}
	for _, tt := range []struct {
		after time.Duration
		ttl   uint32 // 0: a miss
	}{
		{0, 300},
		{999 * time.Millisecond, 300},
		{100 * time.Second, 200},
		{299*time.Second + 999*time.Millisecond, 1},
		{300 * time.Second, 0},
		{time.Hour, 0},
		{-time.Second, 300}, // a reader whose time is from before the write
		{-time.Hour, 0},     // the clock was set back
	} {
		s := c.Get(key, t0.Add(tt.after), &a)
		if (s == Fresh) != (tt.ttl != 0) || s == Stale {
			t.Errorf("after %v: state %v, want TTL %d", tt.after, s, tt.ttl)
		}
		if s != Fresh {
			continue
		}
		m := unpack(t, a.Append(nil, &q, 0))
		if got := m.Answer[0].Header().Ttl; got != tt.ttl {
			t.Errorf("after %v: TTL %d, want %d", tt.after, got, tt.ttl)
		}
	}
	c.Flush()
	if c.Get(key, t0, &a) != Miss {
		t.Error("a hit after Flush")
	}
	s := c.Stats()
	if s.Hits != 5 || s.Misses != 5 || s.Stale != 0 || s.Entries != 0 || s.Bytes != 0 || s.Evictions != 0 {
		t.Errorf("%+v: want 5 hits, 5 misses, no entries, no evictions", s)
	}
}

func TestWhatIsCached(t *testing.T) {
	ede := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: "why"}
	for _, tt := range []struct {
		name   string
		cfg    Config
		rcode  int
		answer string
		ns     string
		edit   func(*wire.Reply)
		want   time.Duration // 0: not cached
	}{
		{name: "positive", answer: positive, want: 300 * time.Second},
		{name: "NXDOMAIN, RFC 2308 §5", rcode: dns.RcodeNameError, ns: negative, want: 400 * time.Second},
		{name: "NODATA", ns: negative, want: 400 * time.Second},
		{name: "NXDOMAIN without SOA", rcode: dns.RcodeNameError},
		{name: "SERVFAIL", rcode: dns.RcodeServerFailure, answer: positive, cfg: Config{MinTTL: time.Minute}},
		{name: "REFUSED", rcode: dns.RcodeRefused, answer: positive},
		{name: "REFUSED that claims a TTL", rcode: dns.RcodeRefused, answer: positive, edit: func(r *wire.Reply) { r.TTL = 300 }},
		{name: "TC that claims a TTL", answer: positive, edit: func(r *wire.Reply) { r.TC = true }},
		{name: "TTL 0", answer: "www.example. 0 IN A 192.0.2.1\n", cfg: Config{MinTTL: time.Minute}},
		{name: "MinTTL", answer: positive, cfg: Config{MinTTL: time.Hour}, want: time.Hour},
		{name: "MaxTTL", answer: positive, cfg: Config{MaxTTL: time.Minute}, want: time.Minute},
		{name: "MaxTTL limits negative replies too", ns: negative, cfg: Config{MaxTTL: time.Minute}, want: time.Minute},
		{name: "MaxNegativeTTL", ns: negative, cfg: Config{MaxNegativeTTL: time.Minute}, want: time.Minute},
		{name: "MaxNegativeTTL does not limit positive replies", answer: positive, cfg: Config{MaxNegativeTTL: time.Minute}, want: 300 * time.Second},
		{name: "the default MaxTTL", answer: "www.example. 2000000 IN A 192.0.2.1\n", want: 24 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(t, tt.cfg)
			q, r := exchange(t, "www.example.", tt.rcode, tt.answer, tt.ns, ede)
			if tt.edit != nil {
				tt.edit(&r)
			}
			key := wire.AppendKey(nil, &q)
			c.Put(key, &r, t0)
			var a Answer
			s := c.Get(key, t0, &a)
			if (s == Fresh) != (tt.want != 0) || (s == Fresh) != (c.Stats().Entries == 1) {
				t.Fatalf("state %v (%+v)", s, c.Stats())
			}
			if s != Fresh {
				return
			}
			if c.Get(key, t0.Add(tt.want-1), &a) != Fresh || c.Get(key, t0.Add(tt.want), &a) != Miss {
				t.Errorf("not cached for %v", tt.want)
			}
			// The TTLs that clients get have to match: not longer than the cache's, and
			// not shorter if raised.
			for _, off := range a.Reply.TTLs {
				ttl := time.Duration(binary.BigEndian.Uint32(a.Reply.Msg[off:])) * time.Second
				if ttl != tt.want {
					t.Errorf("a record's TTL is %v, want %v", ttl, tt.want)
				}
			}
			if r.Negative != a.Reply.Negative || r.Rcode != a.Reply.Rcode {
				t.Errorf("cached as %+v", a.Reply)
			}
		})
	}
}

// TestCopies: modifying the reply and the key after Put does not change the cache.
func TestCopies(t *testing.T) {
	c := newCache(t, Config{})
	answer := ""
	for i := range 24 {
		answer += fmt.Sprintf("www.example. %d IN A 192.0.2.%d\n", 100+i, i)
	}
	q, r := exchange(t, "WWW.example.", dns.RcodeSuccess, answer, "",
		&dns.EDNS0_EDE{InfoCode: 3, ExtraText: "why"}, &dns.EDNS0_EDE{InfoCode: 4}, &dns.EDNS0_EDE{InfoCode: 5, ExtraText: "and"})
	q.EDNS, q.AD, r.AD = true, true, true
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	own := wire.EDE{Code: 13, Text: "ours"}
	want := wire.AppendReply(nil, &q, &r, 7, 0, own)
	clear(r.Msg)
	clear(r.TTLs)
	clear(r.EDE)
	clear(key[:5])
	var a Answer
	if c.Get(wire.AppendKey(nil, &q), t0.Add(7*time.Second), &a) != Fresh {
		t.Fatal("a miss")
	}
	if got := a.Append(nil, &q, 0, own); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestLongEDE: EDE text that is too long for an entry is cut, and everything else is kept.
func TestLongEDE(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	q.EDNS = true
	for i := range 10 {
		r.EDE = append(r.EDE, wire.EDE{Code: uint16(i), Text: string(bytes.Repeat([]byte{'x'}, 100*i))})
	}
	c.Put(wire.AppendKey(nil, &q), &r, t0)
	var a Answer
	if c.Get(wire.AppendKey(nil, &q), t0, &a) != Fresh {
		t.Fatal("a miss")
	}
	r.EDE = r.EDE[:maxEDEs]
	if got, want := a.Append(nil, &q, 0), wire.AppendReply(nil, &q, &r, 0, 0); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestKeys: each key has its own answer, and a reply to another question is not stored.
func TestKeys(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "wWw.Example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	scope := append(bytes.Clone(key), bytes.Repeat([]byte{7}, 80)...)
	var a Answer
	c.Put(key, &r, t0)
	if c.Get(key, t0, &a) != Fresh || c.Get(scope, t0, &a) != Miss {
		t.Error("a key and one with a suffix are not distinguished")
	}
	c.Put(scope, &r, t0)
	c.Flush()
	c.Put(scope, &r, t0)
	if c.Get(scope, t0, &a) != Fresh || c.Get(key, t0, &a) != Miss {
		t.Error("a key with a suffix and one without are not distinguished")
	}
	c.Flush()
	for name, bad := range map[string][]byte{
		"empty":              nil,
		"shorter":            key[:len(key)-2],
		"another name":       append([]byte("\x03xww"), key[4:]...),
		"another type":       append(append(bytes.Clone(key[:len(key)-5]), 0, 0x41), key[len(key)-3:]...),
		"a suffix too long":  append(bytes.Clone(key), make([]byte, 255)...),
		"upper case":         append([]byte("\x03WWW"), key[4:]...),
		"without the labels": key[5:],
	} {
		c.Put(bad, &r, t0)
		if n := c.Stats().Entries; n != 0 {
			t.Errorf("%s: stored", name)
			c.Flush()
		}
	}
}

// TestCollisionIsAMiss stores an entry under the hash of another key.
func TestCollisionIsAMiss(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	var a Answer
	c.Get(key, t0, &a)
	for i := range len(key) - 1 {
		stored := &a.Reply.Msg[wire.HeaderLen+i] // the key without its last byte
		*stored ^= 1
		if c.Get(key, t0, &a) != Miss {
			t.Errorf("answered from the entry of a key that differs at %d", i)
		}
		*stored ^= 1
	}
	other := append(bytes.Clone(key[:len(key)-1]), key[len(key)-1]^1)
	e, _ := c.data.GetIfPresent(maphash.Bytes(c.seed, key))
	c.data.Set(maphash.Bytes(c.seed, other), e)
	if c.Get(other, t0, &a) != Miss {
		t.Error("answered from the entry of a key with another end")
	}
}

func TestMemoryLimit(t *testing.T) {
	const bound = 1 << 20
	c := newCache(t, Config{MaxBytes: bound})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	for i := range 20_000 {
		number(key, &r, i)
		c.Put(key, &r, t0)
	}
	s := c.Stats()
	if s.Bytes > bound || s.Bytes < bound/2 {
		t.Errorf("%d bytes after many writes: want at most %d, and not much less", s.Bytes, bound)
	}
	if s.Evictions == 0 || s.Entries >= 20_000 || s.Entries == 0 {
		t.Errorf("%+v", s)
	}
	if err := c.Configure(Config{MaxBytes: bound / 4}); err != nil {
		t.Fatal(err)
	}
	if less := c.Stats(); less.Bytes > bound/4 || less.Bytes < bound/8 || less.Evictions <= s.Evictions {
		t.Errorf("%+v after the bound was lowered to %d", less, bound/4)
	}
}

func TestBigEntryIsNotCached(t *testing.T) {
	c := newCache(t, Config{MaxBytes: 1 << 20})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	room := 1<<20/maxEntryFraction - otterBytes - entryLen(key, &r)
	r.Msg = append(r.Msg, make([]byte, room)...)
	var a Answer
	if c.Put(key, &r, t0); c.Get(key, t0, &a) != Fresh {
		t.Error("an entry of the maximum size was not cached")
	}
	r.Msg = append(r.Msg, 0)
	if c.Put(key, &r, t0); c.Get(key, t0, &a) != Miss {
		t.Error("an entry above the maximum size was cached, or the one before it was kept")
	}
}

func TestConfig(t *testing.T) {
	c := newCache(t, Config{MaxTTL: time.Minute})
	for _, cfg := range []Config{
		{MaxBytes: -1},
		{MaxBytes: 100},
		{MinTTL: -1},
		{MaxTTL: -1},
		{MaxNegativeTTL: -1},
		{MaxStale: -1},
		{MaxTTL: time.Millisecond},
		{MinTTL: time.Hour, MaxTTL: time.Minute},
		{MinTTL: time.Hour, MaxNegativeTTL: time.Minute},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v): no error", cfg)
		}
		if err := c.Configure(cfg); err == nil {
			t.Errorf("Configure(%+v): no error", cfg)
		}
	}
	if got := c.cfg.Load().MaxTTL; got != time.Minute {
		t.Errorf("an invalid configuration changed MaxTTL to %v", got)
	}
	newCache(t, Config{MinTTL: 48 * time.Hour}) // above the default MaxTTL, which is raised
}

// TestConfigure: new TTL limits apply to later answers, MaxStale and Prefetch immediately.
func TestConfigure(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	var a Answer
	at := t0.Add(301 * time.Second)
	if c.Get(key, at, &a) != Miss {
		t.Error("an answer is stale although MaxStale is 0")
	}
	if err := c.Configure(Config{MaxTTL: time.Minute, MaxStale: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if c.Get(key, t0.Add(299*time.Second), &a) != Fresh || c.Get(key, at, &a) != Stale {
		t.Error("the new configuration changed a stored TTL, or MaxStale does not apply")
	}
	c.Put(key, &r, t0)
	if c.Get(key, t0.Add(61*time.Second), &a) != Stale {
		t.Error("the new MaxTTL does not apply")
	}
}

// TestLimit: the reply that fills the cache has the TTLs of the cached answer, and one that
// may not be cached none that is longer than the maximum.
func TestLimit(t *testing.T) {
	for what, tt := range map[string]struct {
		cfg    Config
		answer string
		ns     string
		want   uint32
	}{
		"max-ttl":                     {Config{MaxTTL: time.Minute}, positive, "", 60},
		"max-negative-ttl":            {Config{MaxNegativeTTL: time.Minute}, "", negative, 60},
		"min-ttl":                     {Config{MinTTL: time.Hour}, positive, "", 3600},
		"min-ttl and TTL 0":           {Config{MinTTL: time.Hour}, "www.example. 0 IN A 192.0.2.1\n", "", 0},
		"max-ttl, without a lifetime": {Config{MaxTTL: time.Minute}, "", "example. 300 IN NS ns.example.\n", 60},
	} {
		c := newCache(t, tt.cfg)
		q, r := exchange(t, "www.example.", dns.RcodeSuccess, tt.answer, tt.ns)
		c.Put(wire.AppendKey(nil, &q), &r, t0)
		c.Limit(&r)
		if len(r.TTLs) == 0 {
			t.Fatalf("%s: no records", what)
		}
		for _, off := range r.TTLs {
			if ttl := binary.BigEndian.Uint32(r.Msg[off:]); ttl != tt.want {
				t.Errorf("%s: TTL %d, want %d", what, ttl, tt.want)
			}
		}
		var a Answer
		if c.Get(wire.AppendKey(nil, &q), t0, &a) == Fresh && !bytes.Equal(a.Reply.Msg[a.Reply.QEnd:], r.Msg[r.QEnd:]) {
			t.Errorf("%s: cached as %x, sent as %x", what, a.Reply.Msg, r.Msg)
		}
	}
}

// TestUnsigned: the answer for DO=0 that is made of the one for DO=1 has its age, lifetime,
// AD and EDEs, and no signatures. It replaces nothing that is as good.
func TestUnsigned(t *testing.T) {
	signed := positive + "www.example. 300 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example. AAAA\n"
	ede := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther, ExtraText: "why"}
	c := newCache(t, Config{MaxStale: time.Hour})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, signed, "", ede)
	r.AD = true
	key := wire.AppendKey(nil, &q)
	do := bytes.Clone(key)
	do[len(do)-1] |= 1
	var a Answer
	if c.Unsigned(do, key, Miss, t0) || c.Get(key, t0, &a) != Miss {
		t.Fatal("made of nothing")
	}
	c.Put(do, &r, t0)
	at := t0.Add(100 * time.Second)
	if !c.Unsigned(do, key, Miss, at) || c.Get(key, at, &a) != Fresh {
		t.Fatal("not made")
	}
	if len(a.Reply.TTLs) != 1 || !a.Reply.AD || a.Age != 100 || a.Left() != 200 || a.entry.edes == 0 {
		t.Errorf("%+v, age %d, %d s left", a.Reply, a.Age, a.Left())
	}
	if got := c.Get(key, t0.Add(300*time.Second), &a); got != Stale {
		t.Errorf("after its lifetime: %v", got)
	}
	late := t0.Add(400 * time.Second)
	if c.Unsigned(do, key, Stale, late) {
		t.Error("a stale answer replaced a stale one")
	}
	c.Put(do, &r, late)
	if !c.Unsigned(do, key, Stale, late) || c.Get(key, late, &a) != Fresh {
		t.Error("a fresh answer did not replace a stale one")
	}
}
