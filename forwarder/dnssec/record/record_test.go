// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// TestCompare: the order of RFC 4034 §6.1.
func TestCompare(t *testing.T) {
	var names []Name
	for _, text := range []string{"example.", "a.example.", "yljkjljk.a.example.", "Z.a.example.", "zABC.a.EXAMPLE.", "z.example.", `\001.z.example.`, "*.z.example.", `\200.z.example.`} {
		raw, err := wire.AppendParsed(nil, text)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, FromWire(raw))
	}
	shuffled := slices.Clone(names)
	rand.Shuffle(len(names), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, Compare)
	if !slices.Equal(names, shuffled) {
		t.Errorf("%v: want %v", shuffled, names)
	}
	n := names[3]
	if n.Labels() != 3 || n.Parent() != names[1] || n.Suffix(1) != names[0] || !n.Below(names[1]) || n.Below(n) || !n.Within(n) || n.Within(names[5]) ||
		Common(names[3], names[6]) != names[0] || Common(n, Root) != Root || Root.Parent() != Root || Root.Labels() != 0 {
		t.Errorf("relations of %v", n)
	}
}

// TestBitmap: types in bitmaps as miekg/dns writes them.
func TestBitmap(t *testing.T) {
	types := []uint16{dns.TypeA, dns.TypeMX, dns.TypeRRSIG, dns.TypeNSEC, 1234, 65280}
	rr := &dns.NSEC{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeNSEC, Class: 1}, NextDomain: "b.", TypeBitMap: types}
	buf := make([]byte, 500)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	nsec, ok := ParseNSEC(buf[13:n])
	if !ok || nsec.Next != "\x01b\x00" {
		t.Fatalf("%+v, %v", nsec, ok)
	}
	for typ := range 1 << 16 {
		if nsec.Types.Has(uint16(typ)) != slices.Contains(types, uint16(typ)) {
			t.Errorf("type %d", typ)
		}
	}
	if !nsec.Types.Only(types...) || nsec.Types.Only(types[1:]...) || nsec.Types.Only() {
		t.Error("Only")
	}
	for _, bad := range [][]byte{{0}, {0, 0}, {0, 2, 1}, {0, 33}, {1, 1, 1, 0, 1, 1}, {0, 1, 1, 0, 1, 1}} {
		if _, ok := ParseNSEC(append([]byte{1, 'b', 0}, bad...)); ok {
			t.Errorf("%v is accepted", bad)
		}
	}
}

// checkParse checks that a message which parses can be written again, with the same RRsets.
func checkParse(t *testing.T, raw []byte) {
	m, err := Parse(bytes.Clone(raw))
	if err != nil {
		return
	}
	w := NewWriter(m.Raw[:m.QEnd])
	for i := range m.Records {
		if rr := &m.Records[i]; rr.Set == nil || !w.Copy(m, rr) {
			return // OPT, or a record that cannot be written
		}
	}
	again, err := Parse(w.Bytes())
	if err != nil {
		t.Fatalf("what was written does not parse: %v", err)
	}
	if len(again.Sets) != len(m.Sets) || again.Name != m.Name {
		t.Fatalf("%d RRsets: want %d", len(again.Sets), len(m.Sets))
	}
	for i, s := range m.Sets {
		x := again.Sets[i]
		if x.Owner != s.Owner || x.Type != s.Type || x.TTL != s.TTL || len(x.Sigs) != len(s.Sigs) || !slices.EqualFunc(x.Data, s.Data, bytes.Equal) {
			t.Fatalf("RRset %d: %+v: want %+v", i, x, s)
		}
		for _, sig := range s.Sigs {
			s.AppendSigned(nil, &sig)
			s.Expanded(&sig)
		}
		for _, data := range s.Data {
			ParseDS(data)
			ParseNSEC(data)
			ParseNSEC3(data)
		}
	}
}

func FuzzParse(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("www.example.", dns.TypeMX)
	for _, text := range []string{"www.example. 60 MX 10 Mail.Example.", "www.example. 60 MX 20 mail.example.", "www.example. 60 SOA a.example. b.example. 1 2 3 4 5",
		"x.example. 60 NAPTR 1 2 \"a\" \"b\" \"c\" d.example.", "www.example. 60 RRSIG MX 13 2 60 20300101000000 20200101000000 1 Example. AAAA", "a. 9 HTTPS 1 b.example. alpn=h2"} {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	for _, compress := range []bool{false, true} {
		m.Compress = compress
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		checked, err := Parse(raw)
		if err != nil || len(checked.Records) != 6 || len(checked.Sets) != 4 {
			f.Fatalf("%+v, %v", checked, err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkParse(t, raw) })
}
