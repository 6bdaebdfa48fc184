// SPDX-License-Identifier: Apache-2.0

package ednstest

import (
	"testing"

	"github.com/miekg/dns"
)

// correctReply returns the reply that q expects.
func correctReply(t *testing.T, q *Question, udp bool) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(q.Query()); err != nil {
		t.Fatal(err)
	}
	m.Extra, m.Zero, m.Authoritative, m.Truncated = nil, false, false, q.truncated && udp
	m.Response, m.Rcode = true, q.rcode&0xF
	for range q.answers {
		if !m.Truncated {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{"x"}})
		}
	}
	if q.edns {
		m.SetEdns0(1232, q.do)
		m.Rcode = q.rcode // its upper bits go into OPT
	}
	return m
}

// TestCheck checks, with an independent parser, that the correct reply to each question
// passes and that a reply with any single fault does not.
func TestCheck(t *testing.T) {
	seen := map[string]bool{}
	for _, q := range Questions {
		for _, udp := range []bool{true, false} {
			check := func(change func(*dns.Msg)) error {
				m := correctReply(t, &q, udp)
				change(m)
				b, err := m.Pack()
				if err != nil {
					t.Fatalf("%s: %v", q.Name, err)
				}
				return q.Check(b, udp)
			}
			if err := check(func(*dns.Msg) {}); err != nil {
				t.Errorf("%s: the correct reply: %v", q.Name, err)
			}
			for what, change := range map[string]func(*dns.Msg){
				"ID":    func(m *dns.Msg) { m.Id++ },
				"QR":    func(m *dns.Msg) { m.Response = false },
				"Z":     func(m *dns.Msg) { m.Zero = true },
				"AA":    func(m *dns.Msg) { m.Authoritative = true },
				"TC":    func(m *dns.Msg) { m.Truncated = !m.Truncated },
				"rcode": func(m *dns.Msg) { m.Rcode ^= dns.RcodeRefused },
				"answers": func(m *dns.Msg) {
					m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeA, Class: 1}})
				},
				"OPT":      func(m *dns.Msg) { flipOPT(m) },
				"two OPTs": func(m *dns.Msg) { m.Extra = append(m.Extra, dns.Copy(opt(m)), dns.Copy(opt(m))) },
				"version":  func(m *dns.Msg) { opt(m).SetVersion(1) },
				"DO":       func(m *dns.Msg) { o := opt(m); o.SetDo(!o.Do()) },
				"flags":    func(m *dns.Msg) { opt(m).Hdr.Ttl |= 0x80 },
				"size":     func(m *dns.Msg) { opt(m).SetUDPSize(511) },
				"option":   func(m *dns.Msg) { o := opt(m); o.Option = append(o.Option, &dns.EDNS0_LOCAL{Code: 100}) },
			} {
				if err := check(change); err == nil {
					t.Errorf("%s: a reply with the wrong %s passes", q.Name, what)
				}
			}
		}
		if seen[q.Name] {
			t.Errorf("%s occurs twice", q.Name)
		}
		seen[q.Name] = true
		if q.Check(q.Query()[:11], true) == nil {
			t.Errorf("%s: half a header passes", q.Name)
		}
	}
}

// opt returns m's OPT record, and adds one if necessary.
func opt(m *dns.Msg) *dns.OPT {
	if m.IsEdns0() == nil {
		m.SetEdns0(1232, false)
	}
	return m.IsEdns0()
}

// flipOPT removes m's OPT record, or adds one if there is none.
func flipOPT(m *dns.Msg) {
	if m.IsEdns0() == nil {
		m.SetEdns0(1232, false)
		return
	}
	m.Extra, m.Rcode = nil, m.Rcode&0xF
}
