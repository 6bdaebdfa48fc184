// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/records"
	"sotto/forwarder/wire"
)

func static(t testing.TB, addrs ...string) *records.Set {
	t.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	s, err := records.Addresses(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func localRoutes(t testing.TB) map[string]Route {
	t.Helper()
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i))
	}
	var hosts records.Hosts
	if err := hosts.Read("hosts", strings.NewReader("192.0.2.7 printer.example\n")); err != nil {
		t.Fatal(err)
	}
	return map[string]Route{
		"nx":      {Action: NXDomain, Rule: 1},
		"null":    {Action: Null, Rule: 2},
		"four":    {Action: Static, Rule: 3, Records: static(t, "192.0.2.1", "192.0.2.2")},
		"many":    {Action: Static, Rule: 4, Records: static(t, many...)},
		"printer": {Action: Static, Rule: 5, Records: hosts.Set()},
		"7":       {Action: Static, Rule: 5, Records: hosts.Set()},
		"empty":   {Action: NoData, Rule: 6},
		"bad":     {Action: Refuse, Rule: 7},
	}
}

// TestLocalAnswers: the answers that rules give themselves, over UDP and TCP, with EDNS and
// without, in the spelling of the question. No upstream receives a query, and each answer is
// observed once.
func TestLocalAnswers(t *testing.T) {
	up := newZoneUpstream(t)
	var mu sync.Mutex
	events := map[string]uint16{}
	n := 0
	at := start(t, Config{Upstream: up, Cache: newCache(t), Route: byLabel(localRoutes(t)), Observe: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		n++
		events[fmt.Sprint(strings.ToLower(wire.Name(e.Name)), e.Type)] = e.Rcode
	}}, "127.0.0.1:0")
	asked := 0
	for _, tc := range []struct {
		name  string
		typ   uint16
		rcode int
		data  string // of the answer
		soa   bool
		ede   uint16
		text  string
	}{
		{"nx.ExAmple", dns.TypeA, dns.RcodeNameError, "", true, dns.ExtendedErrorCodeBlocked, "blocked by rule 1"},
		{"nx.ExAmple", dns.TypeTXT, dns.RcodeNameError, "", true, dns.ExtendedErrorCodeBlocked, "blocked by rule 1"},
		{"null.ExAmple", dns.TypeA, 0, "0.0.0.0", false, dns.ExtendedErrorCodeForgedAnswer, "blocked by rule 2"},
		{"null.ExAmple", dns.TypeAAAA, 0, "::", false, dns.ExtendedErrorCodeForgedAnswer, "blocked by rule 2"},
		{"null.ExAmple", dns.TypeHTTPS, 0, "", true, dns.ExtendedErrorCodeBlocked, "blocked by rule 2"},
		{"four.ExAmple", dns.TypeA, 0, "192.0.2.1 192.0.2.2", false, dns.ExtendedErrorCodeForgedAnswer, "answered by rule 3"},
		{"four.ExAmple", dns.TypeAAAA, 0, "", true, dns.ExtendedErrorCodeForgedAnswer, "answered by rule 3"},
		{"printer.ExAmple", dns.TypeA, 0, "192.0.2.7", false, dns.ExtendedErrorCodeForgedAnswer, "answered by rule 5"},
		{"7.2.0.192.in-addr.arpa", dns.TypePTR, 0, "printer.example.", false, dns.ExtendedErrorCodeForgedAnswer, "answered by rule 5"},
		{"printer.ExAmple", dns.TypeMX, 0, "", true, dns.ExtendedErrorCodeForgedAnswer, "answered by rule 5"},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			for _, edns := range []bool{false, true} {
				m := question(tc.name, tc.typ)
				m.RecursionDesired = edns // answered either way
				if edns {
					m.SetEdns0(1232, true)
				}
				r := ask(t, proto, at, m)
				asked++
				var data []string
				for _, rr := range r.Answer {
					data = append(data, rr.String()[strings.LastIndex(rr.String(), "\t")+1:])
					if rr.Header().Name != m.Question[0].Name {
						t.Errorf("another spelling: %v", rr)
					}
				}
				e := ede(r)
				if r.Rcode != tc.rcode || strings.Join(data, " ") != tc.data || (len(r.Ns) == 1) != tc.soa || r.Authoritative || !r.RecursionAvailable ||
					r.Question[0] != m.Question[0] || (e != nil) != edns || e != nil && (e.InfoCode != tc.ede || e.ExtraText != tc.text) {
					t.Errorf("%s over %s:\n%v", tc.name, proto, r)
				}
			}
		}
		mu.Lock()
		if got := events[fmt.Sprint(strings.ToLower(dns.Fqdn(tc.name)), tc.typ)]; n != asked || int(got) != tc.rcode {
			t.Errorf("%s: %d events for %d queries, the last with rcode %d", tc.name, n, asked, got)
		}
		mu.Unlock()
	}
	if n := up.asked.Load(); n != 0 {
		t.Errorf("the upstream received %d queries", n)
	}
}

// TestLocalTruncation: an answer that is too long for the client over UDP has TC=1 and no
// records; over TCP it is complete.
func TestLocalTruncation(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Route: byLabel(localRoutes(t))}, "127.0.0.1:0")
	for _, size := range []uint16{0, 512, 1232, 4096} {
		m := question("many.example", dns.TypeA)
		if size > 0 {
			m.SetEdns0(size, false)
		}
		if r := ask(t, "udp", at, m); !r.Truncated || len(r.Answer) != 0 || r.Len() > 512 {
			t.Errorf("size %d: %v", size, r)
		}
		if r := ask(t, "tcp", at, m); r.Truncated || len(r.Answer) != 200 {
			t.Errorf("size %d over TCP: %d records", size, len(r.Answer))
		}
	}
}

// TestLocalAnswersLookups: what is not a lookup gets no answer that means success: a zone
// transfer, NOTIFY and UPDATE are refused, and a signed query gets the error BADKEY.
func TestLocalAnswersLookups(t *testing.T) {
	at := start(t, Config{Upstream: newZoneUpstream(t), Route: byLabel(localRoutes(t))}, "127.0.0.1:0")
	for _, label := range []string{"nx", "null", "four", "empty"} {
		for what, want := range map[string]int{"AXFR": dns.RcodeRefused, "IXFR": dns.RcodeRefused, "NOTIFY": dns.RcodeRefused, "UPDATE": dns.RcodeRefused, "TSIG": dns.RcodeNotAuth} {
			m := question(label+".example", dns.TypeSOA)
			switch what {
			case "AXFR":
				m.Question[0].Qtype = dns.TypeAXFR
			case "IXFR":
				m.Question[0].Qtype = dns.TypeIXFR
			case "NOTIFY":
				m.Opcode = dns.OpcodeNotify
			case "UPDATE":
				m.Opcode = dns.OpcodeUpdate
			}
			m.SetEdns0(1232, false)
			msg, err := m.Pack()
			if err == nil && what == "TSIG" {
				m.SetTsig("key.", dns.HmacSHA256, 300, 1)
				msg, _, err = dns.TsigGenerate(m, "c2VjcmV0", "", false)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, proto := range []string{"udp", "tcp"} {
				if got := int(wire.Rcode(askRaw(t, proto, at, msg))); got != want {
					t.Errorf("%s for %s over %s: %s", what, label, proto, dns.RcodeToString[got])
				}
			}
		}
	}
}
