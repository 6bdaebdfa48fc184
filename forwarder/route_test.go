// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// byLabel returns a router that uses the question's first label.
func byLabel(routes map[string]Route) Router {
	return func(q *wire.Query, _ *Origin) Route {
		return routes[string(q.Name[1:1+q.Name[0]])]
	}
}

// TestRoutes: refusals and NODATA name their rule, and a special name that a rule forwards
// is treated like any other.
func TestRoutes(t *testing.T) {
	up := newZoneUpstream(t)
	at := start(t, Config{Upstream: up, Cache: newCache(t), Route: byLabel(map[string]Route{
		"bad":      {Action: Refuse, Rule: 3},
		"empty":    {Action: NoData, Rule: 4},
		"nowhere":  {Action: Plain, Rule: 5},
		"removed":  {Action: RefuseRemoved},
		"notready": {Action: NotReady},
		"builtin":  {Action: Refuse, Rule: 7, Builtin: "some names"},
		"resolver": {Rule: 6},
	})}, "127.0.0.1:0")
	for _, tc := range []struct {
		name    string
		rcode   int
		answers int
		text    string
	}{
		{"good.example", dns.RcodeSuccess, 1, ""},
		{"bad.example", dns.RcodeRefused, 0, "rule 3"},
		{"empty.example", dns.RcodeSuccess, 0, "rule 4"},
		{"nowhere.example", dns.RcodeRefused, 0, "rule 5"},
		{"removed.example", dns.RcodeRefused, 0, "cgroup was removed"},
		{"notready.example", dns.RcodeServerFailure, 0, "not known yet"},
		{"builtin.example", dns.RcodeRefused, 0, `refused by the built-in rule "some names"`},
		{"resolver.arpa", dns.RcodeSuccess, 1, ""},                // because of its rule
		{"x.resolver.arpa", dns.RcodeSuccess, 0, ""},              // a special name
		{"use-application-dns.net", dns.RcodeSuccess, 0, ""},      //
		{"xuse-application-dns.net", dns.RcodeSuccess, 1, ""},     // another name
		{"deep.use-application-dns.net", dns.RcodeSuccess, 0, ""}, //
	} {
		for _, proto := range []string{"udp", "tcp"} {
			m := question(tc.name, dns.TypeA)
			m.SetEdns0(1232, false)
			r := ask(t, proto, at, m)
			text := ""
			if e := ede(r); e != nil {
				text = e.ExtraText
			}
			if r.Rcode != tc.rcode || len(r.Answer) != tc.answers || (text == "") != (tc.text == "") || !strings.Contains(text, tc.text) {
				t.Errorf("%s over %s: %s, %d records, %q", tc.name, proto, dns.RcodeToString[r.Rcode], len(r.Answer), text)
			}
		}
	}
}

// TestRefusalHints: what no recursive server can answer is refused with a reason, and with the
// rule that would allow it where the original destination is known.
func TestRefusalHints(t *testing.T) {
	for _, tc := range []struct {
		q    wire.Query
		code uint16
		rule string
	}{
		{wire.Query{Type: wire.TypeA}, wire.EDENotAuthoritative, "rd = false"},
		{wire.Query{Type: wire.TypeAXFR, RD: true}, wire.EDENotSupported, `type = ["AXFR", "IXFR"]`},
		{wire.Query{Type: wire.TypeIXFR, RD: true}, wire.EDENotSupported, `type = ["AXFR", "IXFR"]`},
		{wire.Query{Type: wire.TypeSOA, Opcode: wire.OpcodeNotify}, wire.EDENotSupported, `opcode = ["NOTIFY", "UPDATE"]`},
		{wire.Query{Type: wire.TypeSOA, Opcode: wire.OpcodeUpdate}, wire.EDENotSupported, `opcode = ["NOTIFY", "UPDATE"]`},
	} {
		for _, plain := range []bool{false, true} {
			rcode, ede, final := forwardable(&tc.q, false, plain)
			want := "a rule with " + tc.rule + ` and use = "plain"`
			if !final || rcode != wire.RcodeRefused || len(ede) != 1 || ede[0].Code != tc.code || strings.Contains(ede[0].Text, want) != plain {
				t.Errorf("%+v, plain %t: %d, %+v", tc.q, plain, rcode, ede)
			}
		}
	}
}

// TestScopes: one upstream's answer is not used in another's scope, and a new router takes
// effect immediately.
func TestScopes(t *testing.T) {
	one, two := newZoneUpstream(t), newZoneUpstream(t)
	f, at := startForwarder(t, Config{Upstream: one, Cache: newCache(t)}, "127.0.0.1:0")
	m := question("www.example.com", dns.TypeA)
	for range 3 {
		ask(t, "udp", at, m)
	}
	f.SetRouter(func(*wire.Query, *Origin) Route { return Route{Upstream: two, Scope: "two"} })
	for range 3 {
		ask(t, "udp", at, m)
	}
	if a, b := one.asked.Load(), two.asked.Load(); a != 1 || b != 1 {
		t.Errorf("the upstreams got %d and %d queries, want one each", a, b)
	}
	f.SetRouter(nil)
	ask(t, "udp", at, m)
	if a := one.asked.Load(); a != 1 {
		t.Errorf("the first upstream got %d queries, want 1: its answer is cached", a)
	}
}
