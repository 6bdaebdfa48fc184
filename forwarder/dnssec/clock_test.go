// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ahead is by how much the clock is wrong in the tests, until it is set back. The signatures are
// valid at both times.
const ahead = 8 * time.Hour

// TestClockSetBackAfterFailure: a step that failed while the clock was ahead is tried again at once
// when the clock was set back.
func TestClockSetBackAfterFailure(t *testing.T) {
	w, v := newWorld(t)
	v.cfg.Now = func() time.Time { return now.Add(ahead) }
	w.change = func(q dns.Question, r *dns.Msg) {
		if q.Qtype == dns.TypeDNSKEY {
			r.Rcode, r.Answer = dns.RcodeServerFailure, nil
		}
	}
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); err == nil {
		t.Fatalf("the keys of the root are unknown: %v", r)
	}
	w.update(func(w *world) { w.change = nil })
	v.cfg.Now = func() time.Time { return now.Add(ahead - clockSlack) }
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); err == nil {
		t.Errorf("set back by %s: the failure is forgotten: %v", clockSlack, r)
	}
	v.cfg.Now = func() time.Time { return now }
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 2" {
		t.Errorf("set back by %s: %s", ahead, result(r, err))
	}
}

// TestClockSetBackAfterDenial: denials that were learned while the clock was ahead deny nothing
// after it was set back, and a small step does not raise their TTL.
func TestClockSetBackAfterDenial(t *testing.T) {
	w, v := newWorld(t)
	v.cfg.Now = func() time.Time { return now.Add(ahead) }
	denied := func(name string) (ttl uint32) {
		t.Helper()
		r, err := ask(v, name, dns.TypeA, false)
		if result(r, err) != "NXDOMAIN secure 0" || len(r.Ns) != 1 {
			t.Fatalf("%s: %v, %v", name, r, err)
		}
		return r.Ns[0].Header().Ttl
	}
	denied("nx1.a13.test.")
	v.cfg.Now = func() time.Time { return now.Add(ahead - clockSlack) }
	if ttl := denied("nx2.a13.test."); ttl != 60 || w.times("nx2.a13.test. A") != 0 {
		t.Errorf("set back by %s: TTL %d and %d queries: want 60, and none", clockSlack, ttl, w.times("nx2.a13.test. A"))
	}
	v.cfg.Now = func() time.Time { return now }
	denied("nx3.a13.test.")
	if n := w.times("nx3.a13.test. A"); n != 1 {
		t.Errorf("set back by %s: %d queries: want one", ahead, n)
	}
	if ttl := denied("nx4.a13.test."); ttl != 60 || w.times("nx4.a13.test. A") != 0 {
		t.Errorf("learned again: TTL %d and %d queries: want 60, and none", ttl, w.times("nx4.a13.test. A"))
	}
}
