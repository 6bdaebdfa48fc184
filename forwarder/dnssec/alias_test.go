// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// changed returns a function that changes the replies to queries of a type.
func changed(typ uint16, change func(r *dns.Msg)) func(dns.Question, *dns.Msg) {
	return func(q dns.Question, r *dns.Msg) {
		if q.Qtype == typ {
			change(r)
		}
	}
}

// otherAddress changes the addresses of the answer.
func otherAddress(r *dns.Msg) {
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			a.A[3]++
		}
	}
}

// TestInsecureAlias: an alias in an unsigned zone does not make the rest of the answer insecure: what
// it names in a signed zone is verified.
func TestInsecureAlias(t *testing.T) {
	bogus := func(code uint16) string { return fmt.Sprint("bogus ", code) }
	for _, tc := range []struct {
		what, name string
		change     func(r *dns.Msg)
		want       string
	}{
		{"as it is", "cross.plain.test.", func(*dns.Msg) {}, "NOERROR insecure 3"},
		{"as it is, negative", "crossnx.plain.test.", func(*dns.Msg) {}, "NXDOMAIN insecure 1"},
		{"as it is, back to an unsigned zone", "back.plain.test.", func(*dns.Msg) {}, "NOERROR insecure 4"},
		{"no signature", "cross.plain.test.", func(r *dns.Msg) { r.Answer = withoutSigs(r.Answer, 0); otherAddress(r) }, bogus(wire.EDERRSIGsMissing)},
		{"another address", "cross.plain.test.", otherAddress, bogus(wire.EDEBogus)},
		{"NXDOMAIN with the records", "cross.plain.test.", func(r *dns.Msg) { r.Rcode = dns.RcodeNameError }, bogus(wire.EDEBogus)},
		{"NXDOMAIN", "cross.plain.test.", func(r *dns.Msg) { r.Rcode, r.Answer = dns.RcodeNameError, r.Answer[:1] }, bogus(wire.EDENSECMissing)},
		{"no records", "cross.plain.test.", func(r *dns.Msg) { r.Answer = r.Answer[:1] }, bogus(wire.EDENSECMissing)},
		{"no proof", "crossnx.plain.test.", func(r *dns.Msg) { r.Ns = nil }, bogus(wire.EDENSECMissing)},
		{"another target of the second alias", "back.plain.test.", func(r *dns.Msg) {
			r.Answer[1].(*dns.CNAME).Target = "alias.plain.test."
		}, bogus(wire.EDEBogus)},
		{"another address in an unsigned zone", "www.plain.test.", otherAddress, "NOERROR insecure 2"},
	} {
		w, v := newWorld(t)
		cname, err := dns.NewRR("back.plain.test. 300 CNAME crossplain.a13.test.")
		if err != nil {
			t.Fatal(err)
		}
		w.zones["plain.test."].add(cname)
		w.change = changed(dns.TypeA, tc.change)
		r, err := ask(v, tc.name, dns.TypeA, false)
		if got := result(r, err); got != tc.want {
			t.Errorf("%s: %s: want %s (%v)", tc.what, got, tc.want, err)
		}
	}
}

// TestForeignRecords: the answer section of an insecure reply has only what the question leads to, with
// its signatures. The other sections stay.
func TestForeignRecords(t *testing.T) {
	foreign := func(name string) dns.RR {
		return &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: []byte{192, 0, 2, 66}}
	}
	for _, tc := range []struct {
		name string
		typ  uint16
		do   bool
		want string
	}{
		{"www.plain.test.", dns.TypeA, false, "NOERROR insecure 2"},
		{"www.plain.test.", dns.TypeANY, false, "NOERROR insecure 2"},
		{"alias.plain.test.", dns.TypeCNAME, false, "NOERROR insecure 1"},
		{"alias.dn.plain.test.", dns.TypeCNAME, false, "NOERROR insecure 3"},
		{"nx.plain.test.", dns.TypeA, false, "NXDOMAIN insecure 0"},
		{"www.plain.test.", dns.TypeAAAA, false, "NOERROR insecure 0"},
		{"cross.plain.test.", dns.TypeA, false, "NOERROR insecure 3"},
		{"cross.plain.test.", dns.TypeA, true, "NOERROR insecure 4"},
		{"www.dn.plain.test.", dns.TypeA, true, "NOERROR insecure 5"},
		{"www.island.test.", dns.TypeA, true, "NOERROR insecure 3"},
	} {
		w, v := newWorld(t)
		w.change = changed(tc.typ, func(r *dns.Msg) {
			if tc.typ == dns.TypeANY {
				r.Answer, r.Ns = rename(w.zones["plain.test."].records["www.plain.test."][dns.TypeA], "www.plain.test."), nil
			}
			r.Answer = append([]dns.RR{foreign("bank.a13.test.")}, append(r.Answer, foreign("bank.plain.test."))...)
			r.Ns = append(r.Ns, &dns.NS{Hdr: dns.RR_Header{Name: "plain.test.", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 9}, Ns: "ns.plain.test."})
			r.Extra = append(r.Extra, foreign("ns.plain.test."))
		})
		r, err := ask(v, tc.name, tc.typ, tc.do)
		if got := result(r, err); got != tc.want {
			t.Errorf("%s %s: %s: want %s (%v)", tc.name, dns.TypeToString[tc.typ], got, tc.want, err)
		}
		if err == nil && (len(r.Ns) == 0 || len(r.Extra) != 2) {
			t.Errorf("%s %s: the other sections have changed: %v", tc.name, dns.TypeToString[tc.typ], r)
		}
	}
}

// TestLongChain: as many aliases as maxAliases are followed, and no more.
func TestLongChain(t *testing.T) {
	for _, zone := range []string{"plain.test.", "a13.test."} {
		w, v := newWorld(t)
		w.change = changed(dns.TypeA, func(r *dns.Msg) {
			z := w.zones[zone]
			last := dns.CanonicalName(r.Question[0].Name)
			var n int
			if _, err := fmt.Sscanf(last, "c%d.", &n); err != nil {
				return
			}
			r.Rcode, r.Answer, r.Ns = dns.RcodeSuccess, nil, nil
			for i := range n {
				next := fmt.Sprintf("n%d.%s", i, zone)
				cname := &dns.CNAME{Hdr: dns.RR_Header{Name: last, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300}, Target: next}
				r.Answer = append(r.Answer, z.sign([]dns.RR{cname}, last)...)
				last = next
			}
			a := &dns.A{Hdr: dns.RR_Header{Name: last, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: []byte{192, 0, 2, 1}}
			r.Answer = append(r.Answer, z.sign([]dns.RR{a}, last)...)
		})
		for n := range maxAliases + 3 {
			r, err := ask(v, fmt.Sprintf("c%d.%s", n, zone), dns.TypeA, false)
			if followed := err == nil && len(r.Answer) == n+1; followed != (n <= maxAliases) || !followed && result(r, err) != fmt.Sprint("bogus ", wire.EDEBogus) {
				t.Errorf("%s, %d aliases: %s (%v)", zone, n, result(r, err), err)
			}
		}
	}
}

// dnameAlone leaves of an answer only the DNAME, its signature, and the CNAME that follows from it.
func dnameAlone(r *dns.Msg) { r.Answer, r.Ns, r.Rcode = r.Answer[:3], nil, dns.RcodeSuccess }

// TestSynthesized: the CNAME of a DNAME, which is not signed, answers questions of the types CNAME
// and ANY. unbound follows it for the type CNAME, nsd for ANY, and BIND for neither. Answers to ANY
// contain signatures.
func TestSynthesized(t *testing.T) {
	same := func(*dns.Msg) {}
	for _, tc := range []struct {
		what, name string
		typ        uint16
		change     func(r *dns.Msg)
		want       string
	}{
		{"followed, no CNAME", "www.dn.a13.test.", dns.TypeCNAME, same, "NOERROR secure 2"},
		{"followed, a CNAME", "alias.dn.a13.test.", dns.TypeCNAME, same, "NOERROR secure 3"},
		{"followed, no name", "nx.dn.a13.test.", dns.TypeCNAME, same, "NXDOMAIN secure 2"},
		{"followed, records", "alias.dn.a13.test.", dns.TypeANY, func(r *dns.Msg) { r.Answer, r.Ns = r.Answer[:5], nil }, "NOERROR secure 5"},
		{"followed, in an unsigned zone", "alias.dn.plain.test.", dns.TypeCNAME, same, "NOERROR insecure 3"},
		{"not followed", "www.dn.a13.test.", dns.TypeCNAME, dnameAlone, "NOERROR secure 2"},
		{"not followed, a CNAME", "alias.dn.a13.test.", dns.TypeCNAME, dnameAlone, "NOERROR secure 2"},
		{"not followed, no name", "nx.dn.a13.test.", dns.TypeCNAME, dnameAlone, "NOERROR secure 2"},
		{"not followed, ANY", "www.dn.a13.test.", dns.TypeANY, dnameAlone, "NOERROR secure 3"},
		{"NXDOMAIN without a proof", "nx.dn.a13.test.", dns.TypeCNAME, func(r *dns.Msg) { r.Ns = nil }, fmt.Sprint("bogus ", wire.EDENSECMissing)},
		{"another target", "www.dn.a13.test.", dns.TypeCNAME, func(r *dns.Msg) {
			dnameAlone(r)
			r.Answer[2].(*dns.CNAME).Target = "www.plain.test."
		}, fmt.Sprint("bogus ", wire.EDEBogus)},
		{"no signature of the DNAME", "www.dn.a13.test.", dns.TypeANY, func(r *dns.Msg) { dnameAlone(r); r.Answer = withoutSigs(r.Answer, 0) }, fmt.Sprint("bogus ", wire.EDERRSIGsMissing)},
		{"no signature of the target's CNAME", "alias.dn.a13.test.", dns.TypeCNAME, func(r *dns.Msg) { r.Answer = withoutSigs(r.Answer, dns.TypeCNAME) }, fmt.Sprint("bogus ", wire.EDERRSIGsMissing)},
		{"another record below the DNAME", "www.dn.a13.test.", dns.TypeANY, func(r *dns.Msg) {
			dnameAlone(r)
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: "www.dn.a13.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: []byte{192, 0, 2, 66}})
		}, fmt.Sprint("bogus ", wire.EDERRSIGsMissing)},
	} {
		w, v := newWorld(t)
		w.change = changed(tc.typ, tc.change)
		r, err := ask(v, tc.name, tc.typ, false)
		if got := result(r, err); got != tc.want {
			t.Errorf("%s: %s: want %s (%v)", tc.what, got, tc.want, err)
		}
	}
}

// TestBelowDNAME: a name below a DNAME is in the DNAME's zone, and so are those below it.
func TestBelowDNAME(t *testing.T) {
	w, v := newWorld(t)
	n, err := v.zoneOf(context.Background(), wireName("a.b.www.dn.a13.test."), false, time.Now().Add(time.Minute))
	if err != nil || n.kind != signedZone || n.name != wireName("a13.test.") {
		t.Fatalf("%+v, %v: want the zone a13.test", n, err)
	}
	if w.asked["b.www.dn.a13.test. DS"] != 0 {
		t.Error("a query below a name that a DNAME replaces")
	}
}
