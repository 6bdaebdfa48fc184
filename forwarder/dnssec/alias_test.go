// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"fmt"
	"testing"

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
