// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestDenials: a known denial answers for other names, as the upstream does, until it expires or is
// flushed; names that exist are not denied.
func TestDenials(t *testing.T) {
	w, v := newWorld(t)
	names := []string{"nx1", "nx2", "www", "ent", "b.ent", "c.ent", "q.w", "y.w", "q.y.w", "alias", "zzz", "a.zzz", "plain", "x.plain", "dn", "x.dn", "*.w", "q.wc"}
	upstream := map[string]string{}
	for _, name := range names {
		for _, typ := range []uint16{dns.TypeA, dns.TypeTXT} {
			fresh := New(v.cfg)
			r, err := ask(fresh, name+".a13.test.", typ, true)
			upstream[fmt.Sprint(name, typ)] = result(r, err)
		}
	}
	for round := range 2 { // in the second one everything is known that can be
		for _, name := range names {
			for _, typ := range []uint16{dns.TypeA, dns.TypeTXT} {
				for _, do := range []bool{false, true} {
					r, err := ask(v, name+".a13.test.", typ, do)
					if got, want := result(r, err), upstream[fmt.Sprint(name, typ)]; got[:14] != want[:14] {
						t.Errorf("round %d, %s %d: %s: want %s", round, name, typ, got, want)
					}
				}
			}
		}
	}
	if v.Stats().Synthesized < 10 {
		t.Errorf("%d answers were made from known denials", v.Stats().Synthesized)
	}
	asks := func(name string) bool {
		w.mu.Lock()
		before := w.asked[name+" A"]
		w.mu.Unlock()
		if r, err := ask(v, name, dns.TypeA, true); result(r, err) != "NXDOMAIN secure 0" || len(r.Ns) < 3 || r.Ns[2].Header().Ttl > 60 {
			t.Fatalf("%s: %v, %v", name, r, err)
		}
		return w.asked[name+" A"] != before
	}
	if asks("nx3.a13.test.") {
		t.Error("a query for a name that a known record denies")
	}
	v.cfg.Now = func() time.Time { return now.Add(57 * time.Second) }
	if !asks("nx3.a13.test.") {
		t.Error("no query although the record expires soon")
	}
	if asks("nx4.a13.test.") {
		t.Error("a query although the record is known again")
	}
	v.Flush()
	if !asks("nx4.a13.test.") {
		t.Error("no query after a flush")
	}
}
