// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"
	"testing"

	"sotto/forwarder"
	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
	"sotto/internal/config"
)

const group = "[[group]]\nname = \"work\"\nupstream = [\"192.0.2.1#dns.example\"]\n"

// planText returns the plan of the text of a configuration file that can read the given
// files.
func planText(text string, files map[string]string) (config.Plan, error) {
	s, err := config.Parse("sotto.toml", []byte(text))
	if err != nil {
		return config.Plan{}, err
	}
	return s.Plan(config.Options{Read: func(file string) ([]byte, error) { return []byte(files[file]), nil }})
}

// TestRouter: the first rule that matches a query determines the route: an action, or a group
// with its scope.
func TestRouter(t *testing.T) {
	p, err := planText(group+`
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
[[rule]]
workload = "unbound.service"
rd = false
use = "plain"
[[rule]]
opcode = "NOTIFY"
use = "work"
`, map[string]string{"blocked": "ads.example\n0.0.0.0 exact.example\n"})
	if err != nil {
		t.Fatal(err)
	}
	def, work := &member{key: "default"}, &member{key: "work"}
	route := newRouter(p.Rules, table{config.DefaultGroup: def, "work": work}, deciders{local: noLocal})
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
		if got := route(&wire.Query{Name: name, Type: tc.typ, RD: true}, o); got != tc.want {
			t.Errorf("%s %d of %q at %s: %+v, want %+v", tc.name, tc.typ, tc.workload, tc.origin, got, tc.want)
		}
	}
	for _, tc := range []struct {
		q        wire.Query
		workload string
		want     forwarder.Route
	}{
		{wire.Query{}, "unbound.service", forwarder.Route{Action: forwarder.Plain, Rule: 6}},
		{wire.Query{RD: true}, "unbound.service", forwarder.Route{Upstream: def}},
		{wire.Query{}, "other.service", forwarder.Route{Upstream: def}},
		{wire.Query{Opcode: wire.OpcodeNotify}, "unbound.service", forwarder.Route{Upstream: work, Scope: "work", Rule: 7}},
	} {
		tc.q.Name = []byte("\x01x\x00")
		if got := route(&tc.q, &forwarder.Origin{Workload: tc.workload}); got != tc.want {
			t.Errorf("opcode %d, RD %t of %q: %+v, want %+v", tc.q.Opcode, tc.q.RD, tc.workload, got, tc.want)
		}
	}
	p, err = planText("[[rule]]\nname = \"a.example\"\nuse = \"nxdomain\"\n[[rule]]\nname = \"b.example\"\nuse = \"null\"\n"+
		"[[rule]]\nname = \"c.example\"\naddress = \"192.0.2.1\"\n[[rule]]\nhosts-file = \"hosts\"\ntype = \"A\"\n", map[string]string{"hosts": "192.0.2.2 d.example\n"})
	if err != nil {
		t.Fatal(err)
	}
	route = newRouter(p.Rules, table{config.DefaultGroup: def}, deciders{local: noLocal})
	for text, want := range map[string]forwarder.Route{
		"x.a.example":            {Action: forwarder.NXDomain, Rule: 1},
		"x.b.example":            {Action: forwarder.Null, Rule: 2},
		"x.c.example":            {Action: forwarder.Static, Records: p.Rules.Records[2], Rule: 3},
		"D.example":              {Action: forwarder.Static, Records: p.Rules.Records[3], Rule: 4},
		"2.2.0.192.in-addr.arpa": {Action: forwarder.Static, Records: p.Rules.Records[3], Rule: 4},
		"x.d.example":            {Upstream: def},
	} {
		name, _ := wire.AppendParsed(nil, text)
		if got := route(&wire.Query{Name: name, Type: wire.TypeA}, &forwarder.Origin{}); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	route = newRouter(config.Rules{}, table{config.DefaultGroup: def}, deciders{local: noLocal})
	if got := route(&wire.Query{}, &forwarder.Origin{}); got != (forwarder.Route{Upstream: def}) {
		t.Errorf("without rules: %+v", got)
	}
}

func noLocal(*wire.Query, *forwarder.Origin) bool { return false }

// TestRouterLocal: names that only a local resolver knows go there if it was asked and no rule
// matches; all others do not.
func TestRouterLocal(t *testing.T) {
	for text, rule := range map[string]bool{"": false, "[[rule]]\nname = [\"db.internal\"]\nuse = \"default\"\n": true} {
		p, err := planText(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		def := &member{key: "default"}
		l := locals{isLocal: func(a netip.Addr) bool { return a.IsLoopback() }}
		l.configure(p.Local.Names)
		l.setDomains([]string{"corp.example"})
		route := newRouter(p.Rules, table{config.DefaultGroup: def}, deciders{local: l.match})
		local, upstream := forwarder.Route{Action: forwarder.Local}, forwarder.Route{Upstream: def}
		byRule := local
		if rule {
			byRule = forwarder.Route{Upstream: def, Rule: 1}
		}
		for _, tc := range []struct {
			name, origin string
			want         forwarder.Route
		}{
			{"printer", "127.0.0.53:53", local},
			{"printer", "8.8.8.8:53", upstream},
			{"printer.local", "[::1]:53", local},
			{"db.internal", "127.0.0.53:53", byRule},
			{"www.corp.example", "127.0.0.53:53", local},
			{"www.example", "127.0.0.53:53", upstream},
		} {
			name, err := wire.AppendParsed(nil, tc.name)
			if err != nil {
				t.Fatal(err)
			}
			o := &forwarder.Origin{Addr: netip.MustParseAddrPort(tc.origin)}
			if got := route(&wire.Query{Name: name, Type: wire.TypeA}, o); got != tc.want {
				t.Errorf("%q: %s at %s: %+v, want %+v", text, tc.name, tc.origin, got, tc.want)
			}
		}
	}
}

// TestRouterRemoved: removing its cgroup exempts a workload from no rule. If a rule has a
// workload condition its queries are refused; otherwise they are answered as usual.
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
		p, err := planText(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		route := newRouter(p.Rules, table{config.DefaultGroup: def}, deciders{local: noLocal})
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
			t.Errorf("%q: a workload whose cgroup exists: %+v", text, got)
		}
	}
}

// TestRouterKubernetes: built-in rules have a name, what is not known of a pod refuses the query,
// and a local resolver may know the cluster's names.
func TestRouterKubernetes(t *testing.T) {
	p, err := planText(`
[[rule]]
pod = "two/*"
use = "refuse"
[kubernetes]
cluster-domain = ["cluster.local"]
cluster-dns = ["10.96.0.10"]
opt-out = "pods"
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	def := &member{key: "default"}
	l := locals{isLocal: func(a netip.Addr) bool { return a.IsLoopback() }}
	l.configure(p.Local.Names)
	pods := map[string]*rules.Pod{"/one": {Name: "one/a"}, "/two": {Name: "two/b"}, "/unknown": {}, "/out": {Name: "one/c", LabelsKnown: true, OptedOut: true}}
	route := newRouter(p.Rules, table{config.DefaultGroup: def}, deciders{local: l.match, pod: func(path string) *rules.Pod { return pods[path] }})
	for _, tc := range []struct {
		name, origin, workload string
		want                   forwarder.Route
	}{
		{"www.example", "10.96.0.10:53", "/one", forwarder.Route{Upstream: def}},
		{"www.example", "10.96.0.10:53", "/two", forwarder.Route{Action: forwarder.Refuse, Rule: 1}},
		{"www.example", "10.96.0.10:53", "/unknown", forwarder.Route{Action: forwarder.NotReady}},
		{"www.example", "8.8.8.8:53", "/out", forwarder.Route{Action: forwarder.Plain, Rule: 2, Builtin: "pods that opted out"}},
		{"a.cluster.local", "10.96.0.10:53", "/one", forwarder.Route{Action: forwarder.Plain, Rule: 3, Builtin: "cluster names"}},
		{"a.cluster.local", "8.8.8.8:53", "/one", forwarder.Route{Action: forwarder.NXDomain, Rule: 4, Builtin: "cluster names asked elsewhere"}},
		{"a.cluster.local", "127.0.0.53:53", "/system.slice/x.service", forwarder.Route{Action: forwarder.Local}},
		{"printer.local", "8.8.8.8:53", "/one", forwarder.Route{Upstream: def}},
	} {
		name, err := wire.AppendParsed(nil, tc.name)
		if err != nil {
			t.Fatal(err)
		}
		o := &forwarder.Origin{Addr: netip.MustParseAddrPort(tc.origin), Workload: tc.workload}
		if got := route(&wire.Query{Name: name, Type: wire.TypeA, RD: true}, o); got != tc.want {
			t.Errorf("%s at %s from %s: %+v, want %+v", tc.name, tc.origin, tc.workload, got, tc.want)
		}
	}
}
