// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder"
)

// secret is what replicas encrypt with.
var secret = []byte("a secret of thirty-two bytes ...")

// query returns a query for name.
func query(name string, qtype uint16, do, cd bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, do)
	m.CheckingDisabled = cd
	return m
}

// ask sends m and returns the reply.
func (r *replica) ask(t *testing.T, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Timeout: 10 * time.Second}
	reply, _, err := c.Exchange(m, r.at.String())
	if err != nil {
		t.Fatalf("%v: %v", m.Question, err)
	}
	return reply
}

// text is the reply without what differs between two of them.
func text(m *dns.Msg) string {
	m = m.Copy()
	m.Id = 0
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		rr.Header().Ttl = 0
	}
	return m.String()
}

// cases are the kinds of answers that are shared.
func cases() []*dns.Msg {
	var all []*dns.Msg
	for _, name := range []string{"www.example", "nxdomain.example", "nodata.example", "cname-3.example", "a-20.example"} {
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				all = append(all, query(name, dns.TypeA, do, cd), query(name, dns.TypeMX, do, cd))
			}
		}
	}
	return all
}

// TestNewReplicaIsWarm: an instance with an empty cache answers what another one has asked for,
// negative answers, DO and CD included, without asking its upstream, and byte for byte the same.
func TestNewReplicaIsWarm(t *testing.T) {
	for name, key := range map[string][]byte{"plain": nil, "sealed": secret} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			o := options{store: Config{Address: s.at}, secret: key, timeout: time.Second}
			up := newUpstream(t, "group")
			first := startReplica(t, up, o)
			first.waitUp(t)
			want := map[int]string{}
			for i, m := range cases() {
				want[i] = text(first.ask(t, m))
			}
			asked := up.asked.Load()
			until(t, "all are stored", func() bool { return len(s.keys()) == int(asked) })

			second := startReplica(t, up, o)
			second.waitUp(t)
			for i, m := range cases() {
				if got := text(second.ask(t, m)); got != want[i] {
					t.Errorf("%s\nwant\n%s", got, want[i])
				}
			}
			if n := up.asked.Load() - asked; n != 0 {
				t.Errorf("the upstream received %d queries of the second instance", n)
			}
			if n := second.from[forwarder.FromShared].Load(); n != asked {
				t.Errorf("%d answers of the shared cache for %d questions: %+v", n, asked, second.shared.Stats())
			}
			if key != nil {
				for _, k := range s.keys() {
					if v := fmt.Sprintf("%s", s.do("GET", k)); strings.Contains(v+k, "example") {
						t.Fatalf("%s: %q", k, v)
					}
				}
			}
		})
	}
}

// TestAge: the time in the store counts. TTLs go on where they were, an answer whose time is over
// is not used, and the store removes it when it can no longer serve as a stale one.
func TestAge(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second, maxStale: time.Hour}
	up := newUpstream(t, "group")
	first := startReplica(t, up, o)
	first.waitUp(t)
	first.ask(t, query("ttl-3.example", dns.TypeA, false, false))
	first.ask(t, query("www.example", dns.TypeA, false, false))
	until(t, "both are stored", func() bool { return len(s.keys()) == 2 })
	for _, k := range s.keys() {
		if left, ok := s.do("PTTL", k).(int64); !ok || left < time.Hour.Milliseconds()-1000 || left > (time.Hour+5*time.Minute).Milliseconds() {
			t.Errorf("it is kept for %d ms", left)
		}
	}
	time.Sleep(3100 * time.Millisecond)
	second := startReplica(t, up, o)
	second.waitUp(t)
	if r := second.ask(t, query("www.example", dns.TypeA, false, false)); r.Answer[0].Header().Ttl > 297 {
		t.Errorf("the TTL is %d after three seconds", r.Answer[0].Header().Ttl)
	}
	asked := up.asked.Load()
	if r := second.ask(t, query("ttl-3.example", dns.TypeA, false, false)); up.asked.Load() != asked+1 || r.Answer[0].Header().Ttl != 3 {
		t.Errorf("an answer that has expired was used: %v", r)
	}
}

// TestStale: if the upstream fails, a new instance serves what another one had stored, as a stale
// answer with its EDE.
func TestStale(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second, maxStale: time.Hour}
	up := newUpstream(t, "group")
	first := startReplica(t, up, o)
	first.waitUp(t)
	first.ask(t, query("ttl-1.example", dns.TypeA, false, false))
	until(t, "it is stored", func() bool { return len(s.keys()) == 1 })
	time.Sleep(1100 * time.Millisecond)
	second := startReplica(t, up, o)
	second.waitUp(t)
	up.fails.Store(true)
	r := second.ask(t, query("ttl-1.example", dns.TypeA, false, false))
	if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || !strings.Contains(r.String(), "Stale Answer") {
		t.Errorf("no stale answer: %v", r)
	}
	if n := second.from[forwarder.FromStale].Load(); n != 1 {
		t.Errorf("%d stale answers", n)
	}
}

// TestSuperseded: an answer that may not be cached removes the shared one, for both values of DO.
func TestSuperseded(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second, maxStale: time.Hour}
	up := newUpstream(t, "group")
	first := startReplica(t, up, o)
	first.waitUp(t)
	m, signed := query("www.example", dns.TypeA, false, false), query("www.example", dns.TypeA, true, false)
	first.ask(t, m)
	first.cache.Flush()
	first.ask(t, signed)
	until(t, "both are stored", func() bool { return len(s.keys()) == 2 })
	first.cache.Flush()
	first.shared.Flush(time.Now())
	up.noTTL.Store(true)
	if r := first.ask(t, m); len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 0 {
		t.Fatalf("want an answer that may not be cached, got %v", r)
	}
	until(t, "both are removed", func() bool { return len(s.keys()) == 0 })
	if n := first.shared.Stats().Written; n != 2 {
		t.Errorf("%d answers written: want 2", n)
	}
	second := startReplica(t, up, o)
	second.waitUp(t)
	up.fails.Store(true)
	for _, m := range []*dns.Msg{m, signed} {
		if r := second.ask(t, m); r.Rcode != dns.RcodeServerFailure {
			t.Errorf("the answer before it is served: %v", r)
		}
	}
	if st := second.shared.Stats(); st.Invalid != 0 {
		t.Errorf("%+v", st)
	}
}

// TestOtherGroup: an answer of an upstream with other settings is never used.
func TestOtherGroup(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second}
	one, two := newUpstream(t, "group one"), newUpstream(t, "group two")
	first, second := startReplica(t, one, o), startReplica(t, two, o)
	first.waitUp(t)
	second.waitUp(t)
	first.ask(t, query("www.example", dns.TypeA, false, false))
	until(t, "it is stored", func() bool { return len(s.keys()) == 1 })
	second.ask(t, query("www.example", dns.TypeA, false, false))
	if one.asked.Load() != 1 || two.asked.Load() != 1 {
		t.Errorf("the upstreams received %d and %d queries", one.asked.Load(), two.asked.Load())
	}
}

// TestPoisoned: entries that another program has overwritten with garbage, with other entries,
// with long values or with other types are not used, and nothing else fails.
func TestPoisoned(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second}
	up := newUpstream(t, "group")
	first := startReplica(t, up, o)
	first.waitUp(t)
	const names = 40
	name := func(i int) string { return fmt.Sprintf("a-%d.example", i+1) }
	for i := range names {
		first.ask(t, query(name(i), dns.TypeA, false, false))
	}
	until(t, "all are stored", func() bool { return len(s.keys()) == names })
	keys := s.keys()
	good := s.do("GET", keys[0])
	for i, k := range keys {
		switch i % 5 {
		case 0:
			s.do("SET", k, "garbage")
		case 1:
			s.do("SET", k, strings.Repeat("x", 5<<20))
		case 2:
			s.do("SET", k, good)
		case 3:
			s.do("DEL", k)
			s.do("LPUSH", k, "a list")
		case 4:
			s.do("SET", k, "")
		}
	}
	second := startReplica(t, up, o)
	second.waitUp(t)
	for i := range names {
		if r := second.ask(t, query(name(i), dns.TypeA, false, false)); len(r.Answer) != i+1 {
			t.Errorf("%s: %v", name(i), r)
		}
	}
	st := second.shared.Stats()
	if st.Found != 0 || st.Invalid == 0 || !st.Up || st.Errors+st.Timeouts != 0 {
		t.Errorf("%+v", st)
	}
}

// TestFlush: after a flush an instance asks its upstream again, and others get the new answer.
func TestFlush(t *testing.T) {
	s := startServer(t)
	o := options{store: Config{Address: s.at}, timeout: time.Second}
	up := newUpstream(t, "group")
	first := startReplica(t, up, o)
	first.waitUp(t)
	m := query("www.example", dns.TypeA, false, false)
	first.ask(t, m)
	until(t, "it is stored", func() bool { return len(s.keys()) == 1 })
	for i, ahead := range []time.Duration{0, 8 * time.Hour} { // of the clock at the flush
		want := int64(i + 2)
		first.cache.Flush()
		first.shared.Flush(time.Now().Add(ahead))
		first.ask(t, m)
		if n := up.asked.Load(); n != want {
			t.Errorf("%s ahead: the upstream received %d queries", ahead, n)
		}
		until(t, "it is stored again", func() bool { return first.shared.Stats().Written == uint64(want) })
		first.cache.Flush()
		first.ask(t, m)
		if n := up.asked.Load(); n != want {
			t.Errorf("%s ahead: the answer after the flush is not shared: %d queries", ahead, n)
		}
	}
}
