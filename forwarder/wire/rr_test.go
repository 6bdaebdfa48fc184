// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// packed returns a reply that another library packed.
func chainReply(t *testing.T) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeA)
	for i, text := range []string{"www.example.org. 60 IN CNAME web.cdn.example.org.", "web.cdn.example.org. 30 IN A 192.0.2.1", "example.org. 5 IN NS ns.example.org.", "ns.example.org. 7 IN A 192.0.2.2"} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i < 2:
			m.Answer = append(m.Answer, rr)
		case i == 2:
			m.Ns = append(m.Ns, rr)
		default:
			m.Extra = append(m.Extra, rr)
		}
	}
	m.Compress = true
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// TestRecords: the iterator and AppendExpanded see what another library packed, with compression.
func TestRecords(t *testing.T) {
	msg := chainReply(t)
	type record struct {
		section int
		typ     uint16
		ttl     uint32
		owner   string
		end     int
	}
	var got []record
	for rr := range Records(msg) {
		owner, ok := AppendExpanded(nil, msg, rr.Owner)
		if !ok {
			t.Fatalf("owner at %d", rr.Owner)
		}
		got = append(got, record{rr.Section, rr.Type, rr.TTL, Name(owner), rr.End - rr.Data})
		if rr.Type == TypeCNAME {
			if target, ok := AppendExpanded([]byte{9}, msg, rr.Data); !ok || Name(target[1:]) != "web.cdn.example.org." {
				t.Errorf("target %q", target)
			}
		}
	}
	want := []record{
		{0, TypeCNAME, 60, "www.example.org.", 10}, {0, TypeA, 30, "web.cdn.example.org.", 4},
		{1, TypeNS, 5, "example.org.", 5}, {2, TypeA, 7, "ns.example.org.", 4},
	}
	if !slices.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}
	if name, typ, class := QuestionOf(msg); Name(name) != "www.example.org." || typ != TypeA || class != ClassIN {
		t.Errorf("question %q %d %d", name, typ, class)
	}
	// Every prefix of the message, and loops of pointers, end without an error.
	for n := range msg {
		for range Records(msg[:n]) {
		}
		QuestionOf(msg[:n])
	}
	loop := append(slices.Clone(msg[:HeaderLen]), 0xC0, HeaderLen)
	if dst, ok := AppendExpanded([]byte{1}, loop, HeaderLen); ok || len(dst) != 1 {
		t.Errorf("a loop was expanded: %v", dst)
	}
}
