// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/config"
)

// zone answers A for every name with one address, and no AAAA.
type zone string

func (z zone) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetReply(&q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: netip.MustParseAddr(string(z)).AsSlice()}}
	}
	return m.Pack()
}

// TestExchanger: addresses that DNS64 made are checked for rebinding, and a group without such
// settings has no wrapper.
func TestExchanger(t *testing.T) {
	for _, tc := range []struct {
		settings, address string
		want              string
	}{
		{"", "9.9.9.9", ""},
		{`dns64 = "64:ff9b::/96"`, "9.9.9.9", "64:ff9b::909:909"},
		{`dns64 = "2001:db8:64::/96"`, "10.0.0.1", "2001:db8:64::a00:1"},
		{"dns64 = \"2001:db8:64::/96\"\nrebinding = \"refuse\"", "10.0.0.1", "blocked"},
		{"dns64 = \"2001:db8:64::/96\"\nrebinding = \"refuse\"\nrebinding-allow = [\"example\"]", "10.0.0.1", "2001:db8:64::a00:1"},
		{"dns64 = \"2001:db8:64::/96\"\nrebinding = \"refuse\"", "9.9.9.9", "2001:db8:64::909:909"},
	} {
		p, err := planText(tc.settings, nil)
		if err != nil {
			t.Fatal(err)
		}
		servers := zone(tc.address)
		x := exchanger(p.Groups[config.DefaultGroup], servers, nil)
		if tc.settings == "" && (x.Exchanger != forwarder.Exchanger(servers) || x.Changed != nil) {
			t.Error("a group without settings has a wrapper")
		}
		for _, f := range x.Changed {
			f()
		}
		msg, err := lookup("www.example.", wire.TypeAAAA)
		if err != nil {
			t.Fatal(err)
		}
		q, err := wire.ParseQuery(msg)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := x.Exchange(t.Context(), wire.AppendQuery(nil, &q), time.Now().Add(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(m.Answer) == 1 {
			got = m.Answer[0].(*dns.AAAA).AAAA.String()
		}
		if strings.Contains(m.String(), "EDE: 15 (Blocked)") {
			got = "blocked"
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q: %v", tc.settings, got, tc.want, &m)
		}
	}
}

// network answers AAAA: for ipv4only.arpa with the prefix 2001:db8:64::/96, for other names with a
// private address by that prefix.
type network struct{}

func (network) Exchange(_ context.Context, query []byte, _ time.Time) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetReply(&q)
	name, address := q.Question[0].Name, "2001:db8:64::192.168.1.1"
	if name == "ipv4only.arpa." {
		address = "2001:db8:64::192.0.0.170"
	}
	m.Answer = []dns.RR{&dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 60}, AAAA: netip.MustParseAddr(address).AsSlice()}}
	return m.Pack()
}

// TestRebindingByFoundPrefix: a private address by the network's own prefix is refused in the first
// answer, too, for which the prefix is looked up.
func TestRebindingByFoundPrefix(t *testing.T) {
	p, err := planText("dns64 = \"auto\"\nrebinding = \"refuse\"", nil)
	if err != nil {
		t.Fatal(err)
	}
	x := exchanger(p.Groups[config.DefaultGroup], network{}, nil)
	msg, err := lookup("www.example.", wire.TypeAAAA)
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseQuery(msg)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := x.Exchange(t.Context(), wire.AppendQuery(nil, &q), time.Now().Add(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(reply); err != nil || len(m.Answer) != 0 || !strings.Contains(m.String(), "EDE: 15 (Blocked)") {
		t.Errorf("%v, %v", err, &m)
	}
}

// TestOriginalRoutes: the route of a group whose upstream is "original" is that of the nameserver
// that was asked, with a scope of its own; it does not allocate; other groups are not affected.
func TestOriginalRoutes(t *testing.T) {
	const text = "upstream = [\"original\"]\noriginal-fallback = \"work\"\n" + group + "[[rule]]\nname = \"work.example\"\nuse = \"work\"\n"
	p, err := planText(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := newGroups(t.Context(), nil, slog.New(slog.DiscardHandler))
	members, err := g.prepare(p.Groups)
	if err != nil {
		t.Fatal(err)
	}
	g.commit(members)
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	route := newRouter(p.Rules, members, deciders{local: noLocal})
	at := func(name, nameserver string) forwarder.Route {
		t.Helper()
		n, err := wire.AppendParsed(nil, name)
		if err != nil {
			t.Fatal(err)
		}
		return route(&wire.Query{Name: n, Type: wire.TypeA, RD: true}, &forwarder.Origin{Addr: netip.MustParseAddrPort(nameserver)})
	}
	a, b := at("www.example", "192.0.2.1:53"), at("www.example", "[2001:db8::1]:53")
	if a.Scope != "@192.0.2.1" || b.Scope != "@2001:db8::1" || a.Upstream == b.Upstream || a != at("x.example", "[::ffff:192.0.2.1]:53") {
		t.Errorf("%+v and %+v", a, b)
	}
	if id := a.Upstream.(forwarder.Identified).Identity(); id == "" || id != members[config.DefaultGroup].Identity() {
		t.Errorf("identity %q", id)
	}
	if r := at("work.example", "192.0.2.1:53"); r.Scope != "work" || r.Upstream != forwarder.Exchanger(members["work"]) {
		t.Errorf("%+v", r)
	}
	q, o := &wire.Query{Name: []byte("\x01x\x00"), RD: true}, &forwarder.Origin{Addr: netip.MustParseAddrPort("192.0.2.1:53")}
	if n := testing.AllocsPerRun(100, func() { route(q, o) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// A reload that changes only the fallback makes another member, because answers may differ.
	changed, err := planText(strings.Replace(text, "192.0.2.1#", "192.0.2.2#", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	next, err := g.prepare(changed.Groups)
	if err != nil {
		t.Fatal(err)
	}
	if next[config.DefaultGroup] == members[config.DefaultGroup] {
		t.Error("the member is the same")
	}
	if err := next.discard(); err != nil {
		t.Error(err)
	}
}
