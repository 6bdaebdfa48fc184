// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
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
	if err != nil || n.name != wireName("a13.test.") || w.asked["nx.a13.test. DS"] != 1 || w.asked["a.nx.a13.test. DS"] != 0 {
		t.Errorf("below a name that does not exist: %+v, %v, %v: want no query for its DS records", n, err, w.asked)
	}
}
