// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// event is one step in the lifetime of an entry with a TTL of 300 s.
type event struct {
	at     time.Duration // since the entry was stored
	do     string        // "", "put", "servfail", "failed"; then a Get
	state  State
	answer string // flags of the Answer: "refresh", "failed"
	ttl    uint32 // in the client's reply
}

func TestEntryLifetime(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name   string
		cfg    Config
		events []event
	}{
		{"fresh, stale, expired", Config{MaxStale: time.Hour}, []event{
			{at: 299 * s, state: Fresh, ttl: 1},
			{at: 300 * s, state: Stale, ttl: 30},
			{at: 300*s + time.Hour - 1, state: Stale, ttl: 30},
			{at: 300*s + time.Hour, state: Miss},
		}},
		{"no prefetch unless configured", Config{}, []event{
			{at: 1 * s, state: Fresh, ttl: 299}, {at: 2 * s, state: Fresh, ttl: 298}, {at: 3 * s, state: Fresh, ttl: 297},
			{at: 299 * s, state: Fresh, ttl: 1},
		}},
		{"prefetch: popular, in the last tenth, one caller", Config{Prefetch: true}, []event{
			{at: 1 * s, state: Fresh, ttl: 299}, {at: 2 * s, state: Fresh, ttl: 298}, {at: 3 * s, state: Fresh, ttl: 297},
			{at: 270*s - 1, state: Fresh, ttl: 31},
			{at: 270 * s, state: Fresh, ttl: 30, answer: "refresh"},
			{at: 270 * s, state: Fresh, ttl: 30},
			{at: 274 * s, state: Fresh, ttl: 26},
			{at: 275 * s, state: Fresh, ttl: 25, answer: "refresh"}, // there was no answer
			{at: 279 * s, state: Fresh, ttl: 21},
			{at: 280 * s, do: "put", state: Fresh, ttl: 300}, // the count restarts
			{at: 281 * s, state: Fresh, ttl: 299}, {at: 282 * s, state: Fresh, ttl: 298},
			{at: 550 * s, state: Fresh, ttl: 30, answer: "refresh"},
		}},
		{"prefetch: not popular", Config{Prefetch: true}, []event{
			{at: 298 * s, state: Fresh, ttl: 2}, {at: 299 * s, state: Fresh, ttl: 1},
		}},
		{"prefetch: the third hit makes it popular", Config{Prefetch: true}, []event{
			{at: 297 * s, state: Fresh, ttl: 3}, {at: 298 * s, state: Fresh, ttl: 2},
			{at: 299 * s, state: Fresh, ttl: 1, answer: "refresh"},
		}},
		{"prefetch: a short TTL", Config{Prefetch: true, MaxTTL: 9 * s}, []event{
			{at: 1 * s, state: Fresh, ttl: 8}, {at: 2 * s, state: Fresh, ttl: 7}, {at: 3 * s, state: Fresh, ttl: 6},
			{at: 9*s - 1, state: Fresh, ttl: 1},
		}},
		{"prefetch: not for stale answers", Config{Prefetch: true, MaxStale: time.Hour}, []event{
			{at: 1 * s, state: Fresh, ttl: 299}, {at: 2 * s, state: Fresh, ttl: 298}, {at: 3 * s, state: Fresh, ttl: 297},
			{at: 301 * s, state: Stale, ttl: 30},
		}},
		{"failed: half a minute", Config{MaxStale: time.Hour}, []event{
			{at: 300 * s, do: "failed", state: Stale, ttl: 30, answer: "failed"},
			{at: 305*s - 1, state: Stale, ttl: 30, answer: "failed"},
			{at: 305 * s, state: Stale, ttl: 30, answer: "refreshfailed"}, // one caller retries in the background
			{at: 305 * s, state: Stale, ttl: 30, answer: "failed"},
			{at: 306 * s, do: "failed", state: Stale, ttl: 30, answer: "failed"},
			{at: 310 * s, state: Stale, ttl: 30, answer: "failed"},
			{at: 311 * s, state: Stale, ttl: 30, answer: "refreshfailed"},
		}},
		{"failed: no queries for a while", Config{MaxStale: time.Hour}, []event{
			{at: 300 * s, do: "failed", state: Stale, ttl: 30, answer: "failed"},
			{at: 329 * s, state: Stale, ttl: 30, answer: "refreshfailed"},
			{at: 330 * s, state: Stale, ttl: 30},
			{at: 331 * s, do: "failed", state: Stale, ttl: 30, answer: "failed"},
			{at: 332 * s, do: "put", state: Fresh, ttl: 300},
			{at: 632 * s, state: Stale, ttl: 30}, // the earlier failure has no effect
		}},
		{"failed: a prefetch", Config{MaxStale: time.Hour}, []event{
			{at: 299 * s, do: "failed", state: Fresh, ttl: 1},
			{at: 301 * s, state: Stale, ttl: 30, answer: "failed"},
		}},
		{"failed: no entry", Config{}, []event{
			{at: 300 * s, do: "failed", state: Miss},
		}},
		{"SERVFAIL never replaces data", Config{MaxStale: time.Hour}, []event{
			{at: 1 * s, do: "servfail", state: Fresh, ttl: 299},
			{at: 400 * s, do: "servfail", state: Stale, ttl: 30},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache(t, tt.cfg)
			q, good := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
			_, bad := exchange(t, "www.example.", dns.RcodeServerFailure, "", "")
			key := wire.AppendKey(nil, &q)
			c.Put(key, &good, t0)
			for i, ev := range tt.events {
				at := t0.Add(ev.at)
				switch ev.do {
				case "put":
					c.Put(key, &good, at)
				case "servfail":
					c.Put(key, &bad, at)
				case "failed":
					c.Failed(key, at)
				}
				checkGet(t, c, &q, i, at, ev)
			}
		})
	}
}

func checkGet(t *testing.T, c *Cache, q *wire.Query, i int, at time.Time, want event) {
	t.Helper()
	var a Answer
	if s := c.Get(wire.AppendKey(nil, q), at, &a); s != want.state {
		t.Fatalf("event %d, after %v: state %v, want %v", i, want.at, s, want.state)
	}
	answer := ""
	if a.Refresh {
		answer += "refresh"
	}
	if a.Failed {
		answer += "failed"
	}
	if answer != want.answer {
		t.Errorf("event %d, after %v: the flags are %q, want %q", i, want.at, answer, want.answer)
	}
	if want.state == Miss {
		return
	}
	m, ttl := unpack(t, a.Append(nil, q, 0)), uint32(0)
	if len(m.Answer) > 0 {
		ttl = m.Answer[0].Header().Ttl
	}
	if ttl != want.ttl {
		t.Errorf("event %d, after %v: TTL %d in the reply, want %d", i, want.at, ttl, want.ttl)
	}
}

// TestStaleNegative: NXDOMAIN and NODATA are served stale too, and the caller can choose the
// right EDE (RFC 8914 §4.4 and §4.20).
func TestStaleNegative(t *testing.T) {
	for _, rcode := range []int{dns.RcodeNameError, dns.RcodeSuccess} {
		c := newCache(t, Config{MaxStale: time.Hour})
		q, r := exchange(t, "www.example.", rcode, "", negative)
		c.Put(wire.AppendKey(nil, &q), &r, t0)
		var a Answer
		if s := c.Get(wire.AppendKey(nil, &q), t0.Add(401*time.Second), &a); s != Stale {
			t.Fatalf("state %v, want Stale", s)
		}
		if !a.Reply.Negative || int(a.Reply.Rcode) != rcode || !a.Reply.Stale {
			t.Errorf("%+v", a.Reply)
		}
		if m := unpack(t, a.Append(nil, &q, 0)); m.Ns[0].Header().Ttl != 30 {
			t.Errorf("TTL %d, want 30", m.Ns[0].Header().Ttl)
		}
	}
}

func TestStatsOfStates(t *testing.T) {
	c := newCache(t, Config{MaxStale: time.Hour, Prefetch: true})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	var a Answer
	for range 4 {
		c.Get(key, t0.Add(299*time.Second), &a)
	}
	c.Get(key, t0.Add(301*time.Second), &a)
	c.Get(key, t0.Add(302*time.Second), &a)
	c.Get(key, t0.Add(5*time.Hour), &a)
	if s := c.Stats(); s.Hits != 4 || s.Prefetches != 1 || s.Stale != 2 || s.Misses != 1 {
		t.Errorf("%+v", s)
	}
}

// TestPeek: Peek finds the same as Get, and changes nothing.
func TestPeek(t *testing.T) {
	c := newCache(t, Config{MaxStale: time.Hour, Prefetch: true})
	q, r := exchange(t, "www.example.", dns.RcodeSuccess, positive, "")
	key := wire.AppendKey(nil, &q)
	c.Put(key, &r, t0)
	c.Failed(key, t0.Add(299*time.Second))
	before := c.Stats()
	var a Answer
	for range 5 { // would make it popular, if counted
		if s := c.Peek(key, t0.Add(299*time.Second), &a); s != Fresh || a.Refresh || a.Failed || a.Reply.Stale {
			t.Fatalf("state %v, %+v; want a fresh answer and no refresh", s, a)
		}
	}
	if s := c.Peek(key, t0.Add(301*time.Second), &a); s != Stale || !a.Failed {
		t.Errorf("state %v, %+v; want a stale answer whose refresh failed", s, a)
	}
	if m := unpack(t, a.Append(nil, &q, 0)); m.Answer[0].Header().Ttl != 30 {
		t.Errorf("%v", m)
	}
	if s := c.Peek(key, t0.Add(3900*time.Second), &a); s != Miss {
		t.Errorf("state %v of an expired entry", s)
	}
	key[len(key)-1] ^= 1
	if s := c.Peek(key, t0, &a); s != Miss {
		t.Errorf("state %v of a key without an entry", s)
	}
	if after := c.Stats(); after != before {
		t.Errorf("%+v, and %+v before", after, before)
	}
	key[len(key)-1] ^= 1
	c.Get(key, t0.Add(299*time.Second), &a)
	if a.Refresh {
		t.Error("Peek counts as a hit")
	}
}
