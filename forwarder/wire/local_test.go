// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestAppendLocal(t *testing.T) {
	plain := mustQuery(t, cat(head(fRD|fCD|fAD, 1), name("WwW", "eXaMple"), u16(TypeA, ClassIN)))
	edns := mustQuery(t, cat(head(0, 1, 0, 0, 1), name("WwW", "eXaMple"), u16(TypeA, ClassIN), opt(4096, 0x8000)))
	a := AppendRecord(nil, TypeA, addr)
	for _, tt := range []struct {
		what   string
		local  Local
		an, ns int
	}{
		{"NXDOMAIN", Local{Rcode: RcodeNXDomain, SOA: true}, 0, 1},
		{"NODATA", Local{SOA: true}, 0, 1},
		{"NODATA without SOA", Local{}, 0, 0},
		{"records", Local{Count: 2, Records: cat(a, a), SOA: true}, 2, 0},
	} {
		for _, q := range []*Query{&plain, &edns} {
			b := AppendLocal([]byte("xx"), q, tt.local, 512, EDE{EDEBlocked, "why"})[2:]
			m := unpack(t, b)
			if !m.Response || m.Authoritative || m.Truncated || m.AuthenticatedData || m.Zero || !m.RecursionAvailable ||
				m.Id != 0x1234 || m.RecursionDesired != q.RD || m.CheckingDisabled != q.CD || m.Rcode != int(tt.local.Rcode) {
				t.Errorf("%s: %v", tt.what, m)
			}
			if !bytes.Equal(b[HeaderLen:q.QEnd], q.Msg[HeaderLen:q.QEnd]) {
				t.Errorf("%s: another question", tt.what)
			}
			if len(m.Answer) != tt.an || len(m.Ns) != tt.ns || (m.IsEdns0() != nil) != q.EDNS {
				t.Errorf("%s: %v", tt.what, m)
			}
			for _, rr := range append(m.Answer, m.Ns...) {
				if h := rr.Header(); h.Name != "WwW.eXaMple." || h.Ttl != LocalTTL || h.Class != dns.ClassINET {
					t.Errorf("%s: %v", tt.what, rr)
				}
			}
			for _, rr := range m.Ns {
				if soa, ok := rr.(*dns.SOA); !ok || soa.Minttl != LocalTTL || soa.Ns != "localhost." || soa.Mbox != "nobody.invalid." ||
					soa.Serial != 1 || soa.Refresh != 3600 || soa.Retry != 1200 || soa.Expire != 604800 {
					t.Errorf("%s: %v", tt.what, rr)
				}
			}
			if o := m.IsEdns0(); o != nil && (!o.Do() || o.UDPSize() != UDPSize || len(o.Option) != 1) {
				t.Errorf("%s: %v", tt.what, o)
			}
			if r, err := ParseReply(bytes.Clone(b)); err != nil || r.Rcode != tt.local.Rcode {
				t.Errorf("%s: ParseReply: %v", tt.what, err)
			}
		}
	}
}

// TestAppendLocalLength: an answer that does not fit the client's size is truncated, over TCP
// it is complete, and an EDE is left out before records are.
func TestAppendLocalLength(t *testing.T) {
	q := mustQuery(t, cat(head(fRD, 1, 0, 0, 1), longName(), u16(TypeA, ClassIN), opt(1232, 0)))
	a := AppendRecord(nil, TypeA, addr)
	for _, tt := range []struct{ count, limit, options int }{
		{5, 512, 1}, {14, 512, 1}, {15, 512, -1}, {15, 1232, 1}, {60, 1232, -1}, {60, 0, 1}, {1000, 0, 1},
	} {
		b := AppendLocal(nil, &q, Local{Count: uint16(tt.count), Records: bytes.Repeat(a, tt.count)}, tt.limit, EDE{EDEForgedAnswer, "why"})
		m := unpack(t, b)
		records, options := len(m.Answer), len(m.IsEdns0().Option)
		if m.Truncated != (tt.options < 0) || records != tt.count && !m.Truncated || m.Truncated && records != 0 || options != max(tt.options, 0) {
			t.Errorf("%d records, limit %d: TC %v, %d records, %d options, %d bytes", tt.count, tt.limit, m.Truncated, records, options, len(b))
		}
		if tt.limit > 0 && len(b) > tt.limit {
			t.Errorf("%d bytes, over %d", len(b), tt.limit)
		}
	}
	b := AppendLocal(nil, &q, Local{Rcode: RcodeNXDomain, SOA: true}, 512, EDE{EDEBlocked, strings.Repeat("x", 200)})
	if m := unpack(t, b); len(b) > 512 || m.Truncated || len(m.Ns) != 1 || len(m.IsEdns0().Option) != 1 {
		t.Errorf("%d bytes: %v", len(b), m)
	}
}

func TestAppendLocalAllocatesNothing(t *testing.T) {
	q := mustQuery(t, ask(fRD, 1, opt(1232, 0)))
	a, buf := AppendRecord(nil, TypeA, addr), make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() {
		AppendLocal(buf, &q, Local{Count: 1, Records: a}, 512, EDE{EDEOther, "text"})
		AppendLocal(buf, &q, Local{SOA: true}, 512, EDE{EDEOther, "text"})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
