// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

// TestRouter: the first rule that takes a query decides; each use becomes its
// action, with the group and the scope that belong to it.
func TestRouter(t *testing.T) {
	_, p, err := planText(aGroup+`
[[rule]]
name = "late.work.example"
type = ["AAAA", "HTTPS"]
use = "nodata"
[[rule]]
name = ["work.example", "10.in-addr.arpa"]
use = "work"
[[rule]]
workload = "app.slice/**"
names-file = "blocked"
use = "refuse"
[[rule]]
nameserver = ["192.168.1.1", "2001:db8::/32"]
name = "home.arpa"
use = "plain"
[[rule]]
name = "plain.example"
use = "default"
`, planFor{read: files{"blocked": "ads.example\n0.0.0.0 exact.example\n"}.read})
	if err != nil {
		t.Fatal(err)
	}
	def, work := &member{key: "default"}, &member{key: "work"}
	route := newRouter(p.rules, table{defaultGroup: def, "work": work})
	for _, tc := range []struct {
		name     string
		typ      uint16
		workload string
		origin   string
		want     forwarder.Route
	}{
		{"www.example", wire.TypeA, "app.slice/x", "192.168.1.1:53", forwarder.Route{Upstream: def}},
		{"late.work.example", wire.TypeAAAA, "", "", forwarder.Route{Action: forwarder.NoData, Rule: 1}},
		{"late.work.example", wire.TypeA, "", "", forwarder.Route{Upstream: work, Scope: "work", Rule: 2}},
		{"WORK.Example", wire.TypeA, "", "", forwarder.Route{Upstream: work, Scope: "work", Rule: 2}},
		{"1.0.0.10.in-addr.arpa", wire.TypeA, "", "", forwarder.Route{Upstream: work, Scope: "work", Rule: 2}},
		{"x.ads.example", wire.TypeA, "app.slice/x", "", forwarder.Route{Action: forwarder.Refuse, Rule: 3}},
		{"x.ads.example", wire.TypeA, "other.slice/x", "", forwarder.Route{Upstream: def}},
		{"exact.example", wire.TypeA, "app.slice", "", forwarder.Route{Action: forwarder.Refuse, Rule: 3}},
		{"x.exact.example", wire.TypeA, "app.slice", "", forwarder.Route{Upstream: def}},
		{"printer.home.arpa", wire.TypeA, "", "192.168.1.1:53", forwarder.Route{Action: forwarder.Plain, Rule: 4}},
		{"printer.home.arpa", wire.TypeA, "", "[2001:db8::53]:53", forwarder.Route{Action: forwarder.Plain, Rule: 4}},
		{"printer.home.arpa", wire.TypeA, "", "192.168.1.2:53", forwarder.Route{Upstream: def}},
		{"plain.example", wire.TypeA, "", "", forwarder.Route{Upstream: def, Rule: 5}},
	} {
		name, err := wire.AppendParsed(nil, tc.name)
		if err != nil {
			t.Fatal(err)
		}
		o := &forwarder.Origin{Workload: tc.workload}
		if tc.origin != "" {
			o.Addr = netip.MustParseAddrPort(tc.origin)
		}
		if got := route(&wire.Query{Name: name, Type: tc.typ}, o); got != tc.want {
			t.Errorf("%s %d of %q at %s: %+v, want %+v", tc.name, tc.typ, tc.workload, tc.origin, got, tc.want)
		}
	}
	route = newRouter(rulePlan{}, table{defaultGroup: def})
	if got := route(&wire.Query{}, &forwarder.Origin{}); got != (forwarder.Route{Upstream: def}) {
		t.Errorf("without rules: %+v", got)
	}
}

// TestRouterRemoved: a workload that cannot be named any more evades no rule: where rules
// ask for workloads its queries are refused, and where none does they are like any other.
func TestRouterRemoved(t *testing.T) {
	def := &member{key: "default"}
	for text, want := range map[string]forwarder.Route{
		"":                               {Upstream: def},
		"name = \"ads.example\"":         {Upstream: def},
		"workload = \"app.slice/other\"": {Action: forwarder.RefuseRemoved},
	} {
		if text != "" {
			text = "[[rule]]\n" + text + "\nuse = \"refuse\"\n"
		}
		_, p, err := planText(text, planFor{read: files{}.read})
		if err != nil {
			t.Fatal(err)
		}
		route := newRouter(p.rules, table{defaultGroup: def})
		name, err := wire.AppendParsed(nil, "www.example")
		if err != nil {
			t.Fatal(err)
		}
		o := &forwarder.Origin{Workload: "/app.slice/(removed)", Removed: true}
		if got := route(&wire.Query{Name: name, Type: wire.TypeA}, o); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
		o = &forwarder.Origin{Workload: "/app.slice/x"}
		if got := route(&wire.Query{Name: name, Type: wire.TypeA}, o); got != (forwarder.Route{Upstream: def}) {
			t.Errorf("%q: a workload that is known: %+v", text, got)
		}
	}
}
