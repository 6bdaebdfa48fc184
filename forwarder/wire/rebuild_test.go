// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// packed returns the reply of miekg/dns with these records in presentation form, separated
// by section.
func packed(t testing.TB, compress bool, question string, qtype uint16, sections ...[]string) Reply {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(question, qtype)
	m.Response, m.Compress = true, compress
	for i, to := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra}[:len(sections)] {
		for _, text := range sections[i] {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			*to = append(*to, rr)
		}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return mustReply(t, b)
}

// mail returns the records of a name with n mail servers, and their addresses.
func mail(n int) (answer, additional []string) {
	for i := range n {
		answer = append(answer, fmt.Sprintf("mail.example.com. 300 IN MX %d mx%d.example.com.", i, i))
		additional = append(additional, fmt.Sprintf("mx%d.example.com. 300 IN A 192.0.2.%d", i, i),
			fmt.Sprintf("mx%d.example.com. 300 IN AAAA 2001:db8::%d", i, i))
	}
	return answer, additional
}

// checkRebuilt compares r with its compressed form, and with the one without signatures.
func checkRebuilt(t *testing.T, r *Reply) {
	all := func(int, uint16) bool { return true }
	out, ok := r.rebuild(all)
	if !ok {
		return // longer: it had names that must not be compressed
	}
	again, err := ParseReply(bytes.Clone(out.Msg))
	if err != nil || !slices.Equal(again.TTLs, out.TTLs) || again.Rotate != out.Rotate && out.Rotate {
		t.Fatalf("rebuilt: %v\n%x\n%x", err, r.Msg, out.Msg)
	}
	want, got := new(dns.Msg), new(dns.Msg)
	if want.Unpack(bytes.Clone(r.Msg)) != nil {
		return // invalid data of a type that is opaque for ParseReply
	}
	if err := got.Unpack(out.Msg); err != nil {
		t.Fatalf("rebuilt: %v\n%x\n%x", err, r.Msg, out.Msg)
	}
	sameRecords(t, lower(want), lower(got))
	unsigned, ok := r.WithoutSignatures()
	if !ok {
		return
	}
	if again, err = ParseReply(bytes.Clone(unsigned.Msg)); err != nil || !slices.Equal(again.TTLs, unsigned.TTLs) {
		t.Fatalf("without signatures: %v\n%x", err, unsigned.Msg)
	}
	for i := range unsigned.TTLs {
		if typ := unsigned.typeOf(i); typ == TypeRRSIG && want.Question[0].Qtype != dns.TypeRRSIG {
			t.Errorf("record %d is a signature: %x", i, unsigned.Msg)
		}
	}
}

// lower converts the owners of all records to lower case.
func lower(m *dns.Msg) *dns.Msg {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			rr.Header().Name = strings.ToLower(rr.Header().Name)
		}
	}
	return m
}

// TestCompressed: a reply without compression becomes as short as miekg/dns makes it, with
// the same records, and names that must not be compressed stay in full (RFC 3597 §4).
func TestCompressed(t *testing.T) {
	answer, additional := mail(10)
	other := []string{"mail.example.com. 300 IN SRV 1 2 3 mx1.example.com.", "mail.example.com. 300 IN NAPTR 1 2 \"u\" \"x\" \"\" mx2.example.com.",
		"mail.example.com. 300 IN RRSIG MX 13 3 300 20300101000000 20200101000000 1 example.com. AAAA",
		"Example.COM. 300 IN SOA ns.example.com. host.example.COM. 1 2 3 4 5"}
	full := packed(t, false, "Mail.Example.com.", dns.TypeMX, append(answer, other...), nil, additional)
	r, ok := full.Compressed()
	if !ok {
		t.Fatal("it was not compressed")
	}
	want := packed(t, true, "Mail.Example.com.", dns.TypeMX, append(answer, other...), nil, additional)
	// host.example.COM keeps its spelling, which miekg/dns does not compress either.
	if len(r.Msg) > len(want.Msg) {
		t.Errorf("%d bytes of %d; miekg/dns has %d", len(r.Msg), len(full.Msg), len(want.Msg))
	}
	checkRebuilt(t, &full)
	if n := bytes.Count(r.Msg, name("mx1", "example", "com")); n != 1 {
		t.Errorf("the target of SRV is in full %d times", n)
	}
	if n := bytes.Count(r.Msg, cat(open("example"), open("COM"), []byte{0})); n != 1 {
		t.Errorf("the spelling in the RDATA is kept %d times", n)
	}
	// A reply that is compressed already, and one that fits every client, stay.
	if _, ok := want.Compressed(); ok {
		t.Error("a compressed reply was compressed again")
	}
	short := packed(t, false, "mail.example.com.", dns.TypeMX, answer[:3])
	if _, ok := short.Compressed(); ok {
		t.Error("a short reply was compressed")
	}
	q := mustQuery(t, cat(head(fRD, 1), full.Msg[HeaderLen:full.QEnd]))
	if m := unpack(t, AppendReply(nil, &q, &full, 0, 512)); !m.Truncated {
		t.Errorf("in full it should not fit: %v", m)
	}
}

// TestWithoutSignatures: the signatures of a reply are removed, and names to which other
// records point stay.
func TestWithoutSignatures(t *testing.T) {
	sig := func(owner, covers string) string {
		return owner + " 300 IN RRSIG " + covers + " 13 3 300 20300101000000 20200101000000 1 example.com. AAAA"
	}
	for _, tc := range []struct {
		name       string
		qtype      uint16
		signed     [][]string
		unsigned   [][]string
		impossible bool
	}{
		{"www.example.com.", dns.TypeA,
			[][]string{{"www.example.com. 300 IN CNAME b.example.com.", sig("www.example.com.", "CNAME"), "b.example.com. 300 IN A 192.0.2.1", "b.example.com. 300 IN A 192.0.2.2", sig("b.example.com.", "A")},
				{"z.y.example.com. 300 IN NSEC x.y.example.com. A", sig("z.y.example.com.", "NSEC"), "y.example.com. 300 IN NS x.y.example.com."}},
			[][]string{{"www.example.com. 300 IN CNAME b.example.com.", "b.example.com. 300 IN A 192.0.2.1", "b.example.com. 300 IN A 192.0.2.2"}, {"y.example.com. 300 IN NS x.y.example.com."}}, false},
		{"www.example.com.", dns.TypeNSEC,
			[][]string{{"www.example.com. 300 IN NSEC x.example.com. A", sig("www.example.com.", "NSEC")}, {"a.example.com. 300 IN NSEC b.example.com. A"}},
			[][]string{{"www.example.com. 300 IN NSEC x.example.com. A"}}, false},
		{"www.example.com.", dns.TypeRRSIG, [][]string{{sig("www.example.com.", "A")}}, [][]string{{sig("www.example.com.", "A")}}, false},
		{"www.example.com.", dns.TypeANY, [][]string{{sig("www.example.com.", "A")}}, nil, true},
	} {
		r := packed(t, true, tc.name, tc.qtype, tc.signed...)
		r.AD = true
		got, ok := r.WithoutSignatures()
		if ok == tc.impossible {
			t.Errorf("%s %d: %v", tc.name, tc.qtype, ok)
		}
		if tc.impossible {
			continue
		}
		want := packed(t, true, tc.name, tc.qtype, tc.unsigned...)
		sameRecords(t, unpack(t, want.Msg), unpack(t, got.Msg))
		if len(got.Msg) != len(want.Msg) || !got.AD || got.TTL != r.TTL || got.Rotate != want.Rotate {
			t.Errorf("%s %d: %+v, want %+v", tc.name, tc.qtype, got, want)
		}
	}
}

// TestAdditionalIsLeftOut: a reply that fits without RRsets that are not required is sent
// without them and without TC (RFC 2181 §9); no RRset is divided, and OPT stays.
func TestAdditionalIsLeftOut(t *testing.T) {
	answer, additional := mail(10)
	ns := []string{"example.com. 300 IN NS ns1.example.com.", "example.com. 300 IN NS ns2.example.com."}
	twice := []string{"mx0.example.com. 300 IN A 192.0.2.1", "mx0.example.com. 300 IN TXT " + strings.Repeat("x", 250), "mx0.example.com. 300 IN A 192.0.2.2"}
	many := slices.Repeat([]string{"mx0.example.com. 300 IN A 192.0.2.1"}, 130)
	for _, tc := range []struct {
		what      string
		sections  [][]string
		ns, extra int
		tc        bool
	}{
		{"some RRsets fit", [][]string{answer, nil, additional}, 0, 12, false},
		{"an RRset that would be divided", [][]string{answer, nil, twice}, 0, 0, false},
		{"too many to compare", [][]string{answer, nil, many}, 0, 0, false},
		{"name servers", [][]string{answer[:10], slices.Repeat(ns, 20), additional}, 0, 0, false},
		{"a proof is required", [][]string{answer[:10], {"mail.example.com. 300 IN RRSIG NSEC 13 3 300 20300101000000 20200101000000 1 example.com. " + strings.Repeat("AAAA", 100)}}, 0, 0, true},
		{"a referral is required", [][]string{nil, slices.Repeat(ns, 20), additional}, 0, 0, true},
		{"the answer does not fit", [][]string{slices.Repeat(answer, 4), nil, additional}, 0, 0, true},
	} {
		for _, edns := range []bool{false, true} {
			r := packed(t, true, "mail.example.com.", dns.TypeMX, tc.sections...)
			msg := cat(head(fRD, 1), r.Msg[HeaderLen:r.QEnd])
			if edns {
				msg = cat(head(fRD, 1, 0, 0, 1), r.Msg[HeaderLen:r.QEnd], opt(512, 0x8000))
			}
			q := mustQuery(t, msg)
			b := AppendReply(nil, &q, &r, 0, 512)
			m := unpack(t, b)
			extra := len(m.Extra)
			if edns {
				extra--
			}
			if m.Truncated != tc.tc || len(b) > 512 || (m.IsEdns0() != nil) != edns {
				t.Errorf("%s, EDNS %v: %d bytes\n%v", tc.what, edns, len(b), m)
			}
			if !tc.tc && (len(m.Answer) != len(tc.sections[0]) || len(m.Ns) != tc.ns || extra > tc.extra || extra < tc.extra-1) {
				t.Errorf("%s, EDNS %v: %d answers, %d in authority, %d additional", tc.what, edns, len(m.Answer), len(m.Ns), extra)
			}
			if m := unpack(t, AppendReply(nil, &q, &r, 0, 0)); len(m.Ns) != len(tc.sections[1:][0]) {
				t.Errorf("%s: over TCP %v", tc.what, m)
			}
		}
	}
}

// TestRotate: successive IDs get the addresses of an RRset in other orders, each with its
// own TTL; the order of other records stays, and so does the reply itself.
func TestRotate(t *testing.T) {
	records := []string{"www.example.com. 300 IN CNAME b.example.com.", "b.example.com. 300 IN CNAME c.example.com.",
		"c.example.com. 100 IN AAAA 2001:db8::1", "c.example.com. 100 IN AAAA 2001:db8::2", "c.example.com. 100 IN AAAA 2001:db8::3",
		"c.example.com. 300 IN RRSIG AAAA 13 3 300 20300101000000 20200101000000 1 example.com. AAAA"}
	r := packed(t, true, "www.example.com.", dns.TypeAAAA, records)
	before := bytes.Clone(r.Msg)
	first := map[string]int{}
	for id := range 300 {
		msg := cat(head(fRD, 1), r.Msg[HeaderLen:r.QEnd])
		SetID(msg, uint16(id))
		q := mustQuery(t, msg)
		m := unpack(t, AppendReply(nil, &q, &r, 7, 0))
		if len(m.Answer) != 6 || m.Answer[1].(*dns.CNAME).Target != "c.example.com." || m.Answer[5].Header().Rrtype != dns.TypeRRSIG {
			t.Fatalf("%v", m)
		}
		var all []string
		for _, rr := range m.Answer[2:5] {
			all = append(all, rr.(*dns.AAAA).AAAA.String())
			if rr.Header().Ttl != 93 {
				t.Errorf("%v", rr)
			}
		}
		first[all[0]]++
		slices.Sort(all)
		if len(slices.Compact(all)) != 3 {
			t.Errorf("%v", m)
		}
	}
	for addr, n := range first {
		if n < 80 || len(first) != 3 {
			t.Errorf("%s is the first %d times of 300", addr, n)
		}
	}
	if !bytes.Equal(before, r.Msg) {
		t.Error("the reply was changed")
	}
	for what, records := range map[string][]string{
		"one address":                       {"www.example.com. 300 IN A 192.0.2.1"},
		"addresses of two owners":           {"www.example.com. 300 IN A 192.0.2.1", "b.example.com. 300 IN A 192.0.2.2"},
		"records that have another meaning": {"www.example.com. 300 IN CNAME b.example.com.", "b.example.com. 300 IN CNAME c.example.com."},
	} {
		if r := packed(t, true, "www.example.com.", dns.TypeA, records); r.Rotate {
			t.Errorf("%s: rotated", what)
		}
	}
}

// TestFormErrHasOPT: the FORMERR for a query whose OPT, or what precedes it, cannot be
// parsed has an OPT record.
func TestFormErrHasOPT(t *testing.T) {
	o := opt(1232, 0)
	for what, tc := range map[string]struct {
		msg  []byte
		edns bool
	}{
		"RDLENGTH beyond the end":   {ask(fRD, 1, o[:9], u16(40)), true},
		"cut in the fixed part":     {ask(fRD, 1, o[:5]), true},
		"an option beyond the end":  {ask(fRD, 1, opt(1232, 0, u16(10, 9))), true},
		"two questions":             {cat(head(fRD, 2, 0, 0, 1), question, question, o), true},
		"no question":               {cat(head(fRD, 0, 0, 0, 1), o), true},
		"twice":                     {ask(fRD, 2, o, o), true},
		"in the authority section":  {cat(head(fRD, 1, 0, 1, 0), question, o), true},
		"no OPT":                    {ask(fRD, 1, in(self, TypeA, addr)[:12]), false},
		"two questions, no OPT":     {cat(head(fRD, 2), question, question), false},
		"a question that is cut":    {cat(head(fRD, 2, 0, 0, 1), question, question[:5]), false},
		"an unknown opcode":         {cat(head(0x1000|fRD, 0, 0, 0, 1), o), true},
		"behind a malformed record": {ask(fRD, 2, rawRecord(self, TypeA, ClassIN, 1, nil)[:8], o), false},
	} {
		q, err := ParseQuery(tc.msg)
		if err != ErrFormat && err != ErrOpcode || q.EDNS != tc.edns {
			t.Errorf("%s: %v, EDNS %v", what, err, q.EDNS)
		}
		if m := unpack(t, AppendError(nil, &q, RcodeFormErr)); (m.IsEdns0() != nil) != tc.edns {
			t.Errorf("%s: %v", what, m)
		}
	}
}
