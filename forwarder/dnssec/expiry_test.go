// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestChangedZone: a step of the chain that changes its kind is asked for once, and then known as one
// that was so from the start.
func TestChangedZone(t *testing.T) {
	for _, tc := range []struct {
		what   string
		change func(w *world)
		want   string
	}{
		{"withdrawn", func(w *world) { delete(w.zones["test."].records["a13.test."], dns.TypeDS) }, "NOERROR insecure"},
		{"without keys", func(w *world) { delete(w.zones["a13.test."].records["a13.test."], dns.TypeDNSKEY) }, "bogus"},
		{"unreachable", func(w *world) {
			w.change = func(q dns.Question, r *dns.Msg) {
				if q.Name == "a13.test." && q.Qtype == dns.TypeDS {
					r.Rcode, r.Answer, r.Ns = dns.RcodeServerFailure, nil, nil
				}
			}
		}, "look up"},
	} {
		for _, validated := range []bool{false, true} {
			w, v := newWorld(t)
			if validated {
				if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 2" {
					t.Fatalf("%v, %v", r, err)
				}
			}
			w.update(tc.change)
			v.cfg.Now = func() time.Time { return now.Add(10 * time.Minute) }
			before := w.times("a13.test. DS")
			for i := range 10 {
				r, err := ask(v, fmt.Sprintf("n%d.w.a13.test.", i), dns.TypeA, false)
				if got := result(r, err); !strings.HasPrefix(got, tc.want) {
					t.Errorf("%s: %s: want %s (%v)", tc.what, got, tc.want, err)
				}
			}
			if n := w.times("a13.test. DS") - before; n != 1 {
				t.Errorf("%s, validated before: %v: %d queries for the DS records: want one", tc.what, validated, n)
			}
		}
	}
	w, v := newWorld(t)
	ds := w.zones["test."].records["a13.test."][dns.TypeDS]
	delete(w.zones["test."].records["a13.test."], dns.TypeDS)
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR insecure 2" {
		t.Fatalf("%v, %v", r, err)
	}
	w.update(func(w *world) { w.zones["test."].records["a13.test."][dns.TypeDS] = ds })
	v.cfg.Now = func() time.Time { return now.Add(10 * time.Minute) }
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 2" {
		t.Errorf("a zone that is signed later: %v, %v", result(r, err), err)
	}
	if _, ok := v.cuts.Get(wireName("a13.test.")); ok {
		t.Error("the expired node of a zone that is signed later is kept")
	}
}
