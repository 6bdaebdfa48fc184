// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestNXDomainInChain: NXDOMAIN for the DS records of a name cuts off the zones below it only with a
// proof. Some servers return it for an empty non-terminal.
func TestNXDomainInChain(t *testing.T) {
	w, v := newWorld(t)
	z := w.zone(t, "sub.nt.a13.test.", dns.ECDSAP256SHA256, contents)
	w.zones["a13.test."].delegate(z, true)
	w.change = func(q dns.Question, r *dns.Msg) {
		if q.Qtype == dns.TypeDS && len(r.Answer) == 0 {
			r.Rcode = dns.RcodeNameError
		}
	}
	if r, err := ask(v, "www.sub.nt.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 2" {
		t.Errorf("below an empty non-terminal: %v, %v", result(r, err), err)
	}
	n, err := v.zoneOf(context.Background(), wireName("a.nx.a13.test."), false, time.Now().Add(time.Minute))
	if err != nil || n.name != wireName("a13.test.") || w.times("nx.a13.test. DS") != 1 || w.times("a.nx.a13.test. DS") != 0 {
		t.Errorf("below a name that does not exist: %+v, %v: want the zone a13.test, and one query", n, err)
	}
}

// TestLateLeader: a query that found no node, and then leads a flight because that of another query
// has ended meanwhile, asks for nothing.
func TestLateLeader(t *testing.T) {
	w, v := newWorld(t)
	until := time.Now().Add(time.Minute)
	if _, err := v.zoneOf(context.Background(), wireName("www.a13.test."), false, until); err != nil {
		t.Fatal(err)
	}
	asked := maps.Clone(w.asked)
	for _, name := range []string{".", "test.", "a13.test.", "www.a13.test."} {
		n, err := v.lead(context.Background(), wireName(name), nil, false, until)
		if err != nil || n.name != wireName(name) {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	if !maps.Equal(w.asked, asked) {
		t.Errorf("asked %v: want %v", w.asked, asked)
	}
}
