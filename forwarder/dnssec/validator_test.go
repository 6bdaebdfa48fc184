// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// result describes an answer: rcode, AD, number of answers, or the EDE code.
func result(r *dns.Msg, err error) string {
	var e *Error
	switch {
	case errors.As(err, &e):
		return fmt.Sprint("bogus ", e.Code)
	case err != nil:
		return err.Error()
	case r.AuthenticatedData:
		return fmt.Sprint(dns.RcodeToString[r.Rcode], " secure ", len(r.Answer))
	}
	return fmt.Sprint(dns.RcodeToString[r.Rcode], " insecure ", len(r.Answer))
}

// TestVerdicts: what exists, what does not, aliases, wildcards and delegations, in zones of every
// algorithm that miekg/dns can sign with.
func TestVerdicts(t *testing.T) {
	_, v := newWorld(t)
	for _, zone := range []string{"a8", "a10", "a13", "a14", "a15"} {
		for question, want := range map[string]string{
			"www A": "NOERROR secure 2", "WwW A": "NOERROR secure 2", "www AAAA": "NOERROR secure 0", "nx A": "NXDOMAIN secure 0", "nx.www A": "NXDOMAIN secure 0",
			"ent A": "NOERROR secure 0", "b.ent TXT": "NOERROR secure 0", "a.b.ent TXT": "NOERROR secure 1", "nx.ent A": "NXDOMAIN secure 0",
			"q.w A": "NOERROR secure 1", "q.r.w A": "NOERROR secure 1", "q.w AAAA": "NOERROR secure 0", "y.w A": "NOERROR secure 0", "q.y.w A": "NXDOMAIN secure 0",
			"alias A": "NOERROR secure 3", "alias AAAA": "NOERROR secure 1", "q.wc A": "NOERROR secure 3", "cross A": "NOERROR secure 3",
			"crossplain A": "NOERROR insecure 3", "crossnx A": "NXDOMAIN secure 1", "www.dn A": "NOERROR secure 4", "nx.dn A": "NXDOMAIN secure 2",
			"plain DS": "NOERROR secure 0", "www.plain A": "NOERROR insecure 2", "nx.plain A": "NXDOMAIN insecure 0", ". SOA": "NOERROR secure 1",
			". DNSKEY": "NOERROR secure 1", ". DS": "NOERROR secure 1", ". A": "NOERROR secure 0",
		} {
			name, typ, _ := strings.Cut(question, " ")
			name = strings.TrimPrefix(name+"."+zone+".test.", "..")
			r, err := ask(v, name, dns.StringToType[typ], false)
			if got := result(r, err); got != want {
				t.Errorf("%s %s: %s: want %s (%v)", name, typ, got, want, err)
			}
		}
	}
	for question, want := range map[string]string{
		"www.island.test. A": "NOERROR insecure 2", "www.plain.test. A": "NOERROR insecure 2", "test. DS": "NOERROR secure 1", ". DNSKEY": "NOERROR secure 1",
		"other. A": "NXDOMAIN secure 0",
	} {
		name, typ, _ := strings.Cut(question, " ")
		r, err := ask(v, name, dns.StringToType[typ], false)
		if got := result(r, err); got != want {
			t.Errorf("%s: %s: want %s (%v)", question, got, want, err)
		}
	}
	st := v.Stats()
	if st.Secure == 0 || st.Insecure == 0 || len(st.Bogus) != 0 || st.Failed != 0 {
		t.Errorf("counted %+v", st)
	}
}

// TestBogus: an upstream that changes, removes or replaces something, and zones with mistakes.
func TestBogus(t *testing.T) {
	unsigned := func(_ dns.Question, r *dns.Msg) { r.Answer, r.Ns = withoutSigs(r.Answer, 0), withoutSigs(r.Ns, 0) }
	for _, tc := range []struct {
		what, name string
		typ        uint16
		prepare    func(t *testing.T, w *world)
		change     func(q dns.Question, r *dns.Msg)
		want       uint16
	}{
		{"another address", "www.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) {
			for _, rr := range r.Answer {
				if a, ok := rr.(*dns.A); ok {
					a.A[3]++
				}
			}
		}, wire.EDEBogus},
		{"a record less", "www.a13.test.", dns.TypeA, nil, func(q dns.Question, r *dns.Msg) {
			if q.Qtype == dns.TypeA {
				r.Answer = r.Answer[1:]
			}
		}, wire.EDEBogus},
		{"no signatures", "www.a13.test.", dns.TypeA, nil, unsigned, wire.EDERRSIGsMissing},
		{"no signatures of the answer", "www.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) { r.Answer = withoutSigs(r.Answer, dns.TypeA) }, wire.EDERRSIGsMissing},
		{"no proof of the wildcard", "q.w.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) { r.Ns = nil }, wire.EDENSECMissing},
		{"no proof of absence", "nx.a13.test.", dns.TypeA, nil, func(q dns.Question, r *dns.Msg) {
			if q.Qtype == dns.TypeA {
				r.Ns = r.Ns[:2]
			}
		}, wire.EDENSECMissing},
		{"NXDOMAIN for a name that exists", "www.a13.test.", dns.TypeA, nil, func(q dns.Question, r *dns.Msg) {
			if q.Qtype == dns.TypeA {
				r.Rcode, r.Answer = dns.RcodeNameError, nil
			}
		}, wire.EDENSECMissing},
		{"NXDOMAIN with the records", "www.a13.test.", dns.TypeA, nil, func(q dns.Question, r *dns.Msg) {
			if q.Qtype == dns.TypeA {
				r.Rcode = dns.RcodeNameError
			}
		}, wire.EDEBogus},
		{"no records of a name that has some", "www.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) { r.Answer = withoutType(r.Answer, dns.TypeA) }, wire.EDENSECMissing},
		{"another target", "alias.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) {
			for _, rr := range r.Answer {
				if c, ok := rr.(*dns.CNAME); ok {
					c.Target = "evil.plain.test."
				}
			}
		}, wire.EDEBogus},
		{"another target of a DNAME", "www.dn.a13.test.", dns.TypeA, nil, func(_ dns.Question, r *dns.Msg) {
			for _, rr := range r.Answer {
				if c, ok := rr.(*dns.CNAME); ok {
					c.Target = "www.plain.test."
				}
			}
		}, wire.EDEBogus},
		{"an expired zone", "www.a13.test.", dns.TypeA, func(_ *testing.T, w *world) {
			w.zones["a13.test."].from, w.zones["a13.test."].to = now.Add(-48*time.Hour), now.Add(-24*time.Hour)
		}, nil, wire.EDESignatureExpired},
		{"a future zone", "www.a13.test.", dns.TypeA, func(_ *testing.T, w *world) { w.zones["a13.test."].from = now.Add(24 * time.Hour) }, nil, wire.EDESignatureNotYetValid},
		{"another key", "www.a13.test.", dns.TypeA, func(t *testing.T, w *world) {
			delete(w.zones["a13.test."].records["a13.test."], dns.TypeDNSKEY)
			w.zones["a13.test."].newKey(t, dns.ECDSAP256SHA256)
		}, nil, wire.EDEDNSKEYMissing},
		{"no key", "www.a13.test.", dns.TypeA, func(_ *testing.T, w *world) { delete(w.zones["a13.test."].records["a13.test."], dns.TypeDNSKEY) }, nil, wire.EDEDNSKEYMissing},
		{"no zone key", "www.a13.test.", dns.TypeA, func(_ *testing.T, w *world) { w.zones["a13.test."].key.Flags = 1 }, nil, wire.EDENoZoneKey},
		{"an unsigned zone with DS", "www.plain.test.", dns.TypeA, func(_ *testing.T, w *world) {
			ds := w.zones["a13.test."].key.ToDS(dns.SHA256)
			ds.Hdr.Name, ds.Hdr.Ttl = "plain.test.", 300
			w.zones["test."].add(ds)
		}, nil, wire.EDEDNSKEYMissing},
		{"a denied delegation", "www.plain.test.", dns.TypeA, nil, func(q dns.Question, r *dns.Msg) {
			if q.Qtype == dns.TypeDS {
				r.Ns = nil
			}
		}, wire.EDENSECMissing},
		{"a wrong clock", "www.a13.test.", dns.TypeA, func(_ *testing.T, w *world) { w.zones["."].from = now.Add(240 * time.Hour) }, nil, wire.EDESignatureNotYetValid},
	} {
		t.Run(tc.what, func(t *testing.T) {
			w, v := newWorld(t)
			if tc.prepare != nil {
				tc.prepare(t, w)
			}
			w.change = tc.change
			r, err := ask(v, tc.name, tc.typ, true)
			if got, want := result(r, err), fmt.Sprint("bogus ", tc.want); got != want {
				t.Errorf("%s: want %s (%v)", got, want, err)
			}
			if clock := tc.what == "a wrong clock"; err != nil && strings.Contains(err.Error(), "clock") != clock {
				t.Errorf("the error names the clock: %v: %v", !clock, err)
			}
			if st := v.Stats(); st.Bogus[reasons[tc.want]] != 1 {
				t.Errorf("counted %+v", st)
			}
		})
	}
}

func withoutSigs(set []dns.RR, typ uint16) []dns.RR {
	return slices.DeleteFunc(set, func(rr dns.RR) bool {
		sig, ok := rr.(*dns.RRSIG)
		return ok && (typ == 0 || sig.TypeCovered == typ)
	})
}

func withoutType(set []dns.RR, typ uint16) []dns.RR {
	return slices.DeleteFunc(withoutSigs(set, typ), func(rr dns.RR) bool { return rr.Header().Rrtype == typ })
}

// TestQueries: the chain costs one query for each DS and DNSKEY, whatever the number of clients,
// and a second answer of the zone none.
func TestQueries(t *testing.T) {
	w, v := newWorld(t)
	w.delay = 10 * time.Millisecond
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if r, err := ask(v, fmt.Sprintf("n%d.w.a13.test.", i), dns.TypeA, false); result(r, err) != "NOERROR secure 1" {
				t.Errorf("%v: %v", result(r, err), err)
			}
		})
	}
	wg.Wait()
	chain := 0
	for question, n := range w.asked {
		if strings.HasSuffix(question, " DS") || strings.HasSuffix(question, " DNSKEY") {
			chain++
			if n != 1 {
				t.Errorf("%s was asked %d times", question, n)
			}
		}
	}
	if chain != 5 {
		t.Errorf("%v: want three DNSKEY and two DS", w.asked)
	}
	before := len(w.asked)
	signatures := v.Stats().Signatures
	if r, err := ask(v, "again.w.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 1" || len(w.asked) != before+1 {
		t.Errorf("%v, %v: %d queries: want one", result(r, err), err, len(w.asked)-before)
	}
	// The wildcard is signed once for all names; ECDSA signatures of the test's upstream differ.
	if n := v.Stats().Signatures; n > signatures+2 {
		t.Errorf("%d signatures were verified", n-signatures)
	}
}

// TestClients: signatures go to clients that want them, CD disables validation, TTLs are limited.
func TestClients(t *testing.T) {
	w, v := newWorld(t)
	r, err := ask(v, "www.a13.test.", dns.TypeA, true)
	if err != nil || len(r.Answer) != 3 || !r.AuthenticatedData {
		t.Fatalf("with DO: %v, %v", r, err)
	}
	r, err = ask(v, "nx.a13.test.", dns.TypeA, false)
	if err != nil || len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != dns.TypeSOA {
		t.Errorf("without DO: %v, %v: want the SOA only", r, err)
	}
	r, err = ask(v, "nx.a13.test.", dns.TypeNSEC, false)
	if err != nil || !slices.ContainsFunc(r.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC }) {
		t.Errorf("a query for NSEC: %v, %v", r, err)
	}
	w.zones["a13.test."].to = now.Add(20 * time.Second)
	r, err = ask(v, "a.b.ent.a13.test.", dns.TypeTXT, true)
	if err != nil || r.Answer[0].Header().Ttl != 20 || r.Answer[1].Header().Ttl != 20 {
		t.Errorf("a signature that expires soon: %v, %v", r, err)
	}
	w.change = func(_ dns.Question, r *dns.Msg) {
		r.Ns = append(r.Ns, &dns.NS{Hdr: dns.RR_Header{Name: "a13.test.", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 9}, Ns: "evil.example."})
		r.Extra = append(r.Extra, &dns.A{Hdr: dns.RR_Header{Name: "ns.a13.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: []byte{192, 0, 2, 66}})
		r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: "evil.a13.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: []byte{192, 0, 2, 66}})
	}
	r, err = ask(v, "www.a13.test.", dns.TypeA, true)
	if err != nil || len(r.Answer) != 3 || len(r.Ns) != 0 || len(r.Extra) != 1 {
		t.Errorf("records that do not belong there are not removed: %v, %v", r, err)
	}
	w.change = func(_ dns.Question, r *dns.Msg) { r.Answer = withoutSigs(r.Answer, 0) }
	raw, err := v.Exchange(context.Background(), wire.AppendLookup(nil, []byte(wireName("www.a13.test.")), dns.TypeA), time.Now().Add(time.Minute))
	if err != nil || raw[3]&0x20 != 0 || raw[3]&0x10 == 0 {
		t.Errorf("with CD: %v, %v", raw, err)
	}
}

// TestAnchors: negative trust anchors, an upstream that fails, and names above all anchors.
func TestAnchors(t *testing.T) {
	w, v := newWorld(t)
	w.change = func(_ dns.Question, r *dns.Msg) { r.Answer, r.Ns = withoutSigs(r.Answer, 0), withoutSigs(r.Ns, 0) }
	v.cfg.Anchors.AddNegative(wireName("a13.test."))
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR insecure 2" {
		t.Errorf("below a negative trust anchor: %v, %v", result(r, err), err)
	}
	if r, err := ask(v, "www.a15.test.", dns.TypeA, false); !strings.HasPrefix(result(r, err), "bogus") {
		t.Errorf("elsewhere: %v, %v", result(r, err), err)
	}
	w, v = newWorld(t)
	w.change = func(q dns.Question, r *dns.Msg) {
		if q.Qtype == dns.TypeDS {
			r.Rcode, r.Answer, r.Ns = dns.RcodeServerFailure, nil, nil
		}
	}
	_, err := ask(v, "www.a13.test.", dns.TypeA, false)
	var e *Error
	if err == nil || errors.As(err, &e) || v.Stats().Failed != 1 {
		t.Errorf("an upstream that fails: %v, %+v", err, v.Stats())
	}
	asked := w.asked["test. DS"]
	if _, err := ask(v, "nx.a13.test.", dns.TypeA, false); err == nil || w.asked["test. DS"] != asked {
		t.Errorf("the failure was not remembered: %v", err)
	}
	w.change = nil
	v.cfg.Now = func() time.Time { return now.Add(2 * time.Second) }
	if r, err := ask(v, "www.a13.test.", dns.TypeA, false); result(r, err) != "NOERROR secure 2" {
		t.Errorf("after it: %v", err)
	}
}

// TestWallClock: keys and denials expire by wall-clock time, which continues during a suspend.
func TestWallClock(t *testing.T) {
	if now := New(Config{}).cfg.Now(); strings.Contains(now.String(), " m=") {
		t.Errorf("%v has a reading of the monotonic clock", now)
	}
}
