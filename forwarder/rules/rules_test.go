// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sotto/forwarder/wire"
)

func wireName(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := wire.AppendParsed(nil, s)
	if err != nil {
		tb.Fatalf("%s: %v", s, err)
	}
	return b
}

func compile(tb testing.TB, rules ...Rule) *Set {
	tb.Helper()
	s, err := Compile(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	s := compile(t,
		Rule{Names: []string{"=corp.example", `dot\.ted.example`}, Types: []string{"aaaa", "TYPE65280"}, Use: "0"},
		Rule{Names: []string{"secret.corp.example"}, Use: "1"},
		Rule{Names: []string{"Corp.Example."}, Nameservers: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:192.0.2.0/120")}, Use: "2"},
		Rule{Workloads: []string{"system.slice/docker-*.scope", "/user.slice/**"}, Use: "3"},
		Rule{Names: []string{"."}, Types: []string{"ANY"}, Use: "4"},
	)
	at := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 53) }
	for _, c := range []struct {
		name, typ, workload string
		nameserver          netip.AddrPort
		want                int
	}{
		{name: "corp.example.", typ: "AAAA", want: 0},
		{name: "CORP.example.", typ: "TYPE65280", want: 0},
		{name: "a.corp.example.", typ: "AAAA", want: -1},
		{name: `x.DOT\.TED.example.`, typ: "AAAA", want: 0},
		{name: "dot.ted.example.", typ: "AAAA", want: -1},
		{name: "a.secret.corp.example.", typ: "A", want: 1},
		{name: "notsecret.corp.example.", typ: "A", want: -1},
		{name: "corp.example.", typ: "A", nameserver: at("10.2.3.4"), want: 2},
		{name: "corp.example.", typ: "A", nameserver: at("::ffff:10.2.3.4"), want: 2},
		{name: "corp.example.", typ: "A", nameserver: at("192.0.2.9"), want: 2},
		{name: "x.corp.example.", typ: "A", nameserver: at("11.2.3.4"), want: -1},
		{name: "xcorp.example.", typ: "A", nameserver: at("10.2.3.4"), want: -1},
		{name: "example.", typ: "A", nameserver: at("10.2.3.4"), want: -1},
		{name: "x.", typ: "A", workload: "/system.slice/docker-0a1b.scope", want: 3},
		{name: "x.", typ: "A", workload: "system.slice/docker-0a1b.scope", want: 3},
		{name: "x.", typ: "A", workload: "/system.slice/docker-0a1b.scope/init", want: -1},
		{name: "x.", typ: "A", workload: "/user.slice/a/b", want: 3},
		{name: "x.", typ: "A", workload: "/", want: -1},
		{name: ".", typ: "ANY", want: 4},
		{name: ".", typ: "A", want: -1},
	} {
		typ, _ := wire.ParseType(c.typ)
		q := Query{Name: wireName(t, c.name), Type: typ, Workload: c.workload, Nameserver: c.nameserver}
		if got := s.Match(q); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if s.Len() != 5 || s.Use(3) != "3" || s.String() != "5 rules, 4 names" {
		t.Errorf("%s: %d rules, the fourth has the use %q", s, s.Len(), s.Use(3))
	}
}

// TestMatchHeader: conditions on RD and the opcode. Only QUERY has the flag RD.
func TestMatchHeader(t *testing.T) {
	s := compile(t,
		Rule{Opcodes: []string{"notify"}},
		Rule{RD: new(bool)},
		Rule{RD: &yes, Types: []string{"SOA"}},
		Rule{Opcodes: []string{"0", "OPCODE5"}, Names: []string{"zone.example"}},
	)
	for _, c := range []struct {
		name   string
		opcode uint8
		rd     bool
		want   int
	}{
		{"zone.example", wire.OpcodeNotify, false, 0},
		{"zone.example", wire.OpcodeNotify, true, 0},
		{"zone.example", wire.OpcodeQuery, false, 1},
		{"zone.example", wire.OpcodeQuery, true, 2},
		{"zone.example", wire.OpcodeUpdate, false, 3},
		{"zone.example", wire.OpcodeUpdate, true, 3},
		{"other.example", wire.OpcodeUpdate, false, -1},
	} {
		if got := s.Match(Query{Name: wireName(t, c.name), Type: wire.TypeSOA, Opcode: c.opcode, RD: c.rd}); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestNoNames: a rule that waits for its names matches nothing.
func TestNoNames(t *testing.T) {
	s := compile(t, Rule{NoNames: true}, Rule{NoNames: true, Names: []string{"a.example"}})
	for name, want := range map[string]int{"a.example": 1, "example": -1, ".": -1} {
		if got := s.Match(Query{Name: wireName(t, name)}); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

// TestMatchOddNames: names that ParseQuery would never return match nothing.
func TestMatchOddNames(t *testing.T) {
	all := compile(t, Rule{})
	for _, name := range []string{"", "\x01", "\x01a", "\x01a\x00\x00", "\x40" + strings.Repeat("a", 64) + "\x00", "\xc0\x0c", strings.Repeat("\x01a", 128) + "\x00"} {
		if got := all.Match(Query{Name: []byte(name)}); got != -1 {
			t.Errorf("%q: %d", name, got)
		}
	}
	longest := []byte(strings.Repeat("\x01a", 127) + "\x00")
	if got := compile(t, Rule{Names: []string{wire.Name(longest)}}).Match(Query{Name: longest}); got != 0 {
		t.Errorf("the longest name: %d", got)
	}
	if got := compile(t).Match(Query{Name: longest}); got != -1 {
		t.Errorf("no rules: %d", got)
	}
}

func TestCompileErrors(t *testing.T) {
	l := strings.Repeat("x", 64)
	for want, r := range map[string]Rule{
		`rule 2: names: "a..b": it has an empty label: write one dot between labels`:                                              {Names: []string{"a..b"}},
		`rule 2: names: "": it is empty: write . for the root`:                                                                    {Names: []string{""}},
		`rule 2: names: "` + l + `": a label has more than 63 bytes: shorten it`:                                                  {Names: []string{"a", l}},
		`rule 2: names: "*.a": a name includes all below it without a star: remove "*."`:                                          {Names: []string{"*.a"}},
		`rule 2: names: "=.a": a name includes all below it without a leading dot: remove`:                                        {Names: []string{"=.a"}},
		`rule 2: types: "AAAAA" is not a record type: write a mnemonic such as AAAA, or TYPE`:                                     {Types: []string{"A", "AAAAA"}},
		`rule 2: nameservers: a prefix is not valid: write one such as 10.0.0.0/8`:                                                {Nameservers: []netip.Prefix{{}}},
		`rule 2: nameservers: 10.1.2.3/8 has bits set beyond its length: write 10.0.0.0/8, or 10.1.2.3/32 for the single address`: {Nameservers: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}},
		`rule 2: nameservers: ::ffff:0.0.0.0/95 has bits set beyond`:                                                              {Nameservers: []netip.Prefix{netip.MustParsePrefix("::ffff:0.0.0.0/95")}},
		`rule 2: opcodes: "16" is not an opcode: want QUERY, NOTIFY, UPDATE or`:                                                   {Opcodes: []string{"QUERY", "16"}},
		`rule 2: opcodes: STATUS messages are always answered with NOTIMP`:                                                        {Opcodes: []string{"2"}},
		`rule 2: rd: only QUERY has the flag RD`:                                                                                  {RD: &yes, Opcodes: []string{"UPDATE"}},
		`rule 2: workloads: "": it is empty: write ** for every workload`:                                                         {Workloads: []string{""}},
		`rule 2: workloads: "a/": no path has an empty level or ends in a slash: write x`:                                         {Workloads: []string{"a/"}},
		`rule 2: workloads: "a//b": no path has an empty level`:                                                                   {Workloads: []string{"a//b"}},
		`rule 2: workloads: "[ab]": character classes ([…]) are not supported: wri`:                                               {Workloads: []string{"[ab]"}},
		`rule 2: workloads: "a***": it has three stars in a row: write **`:                                                        {Workloads: []string{"a***"}},
	} {
		s, err := Compile([]Rule{{}, r})
		var e *Error
		if s != nil || !errors.As(err, &e) || e.Rule != 2 || errors.Unwrap(e) == nil {
			t.Errorf("%+v: %v, %#v", r, s, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), ": ") {
			t.Errorf("%v: want %s", err, want)
		}
	}
	if _, err := Compile([]Rule{{Workloads: []string{strings.Repeat("a", maxGlob+1)}}}); !errors.Is(err, errGlobLong) {
		t.Error(err)
	}
	if _, err := Compile([]Rule{{Names: []string{strings.Repeat("a.", 10000)}}}); err == nil || len(err.Error()) > 300 {
		t.Error(err)
	}
}

func TestShadowed(t *testing.T) {
	plain := func(names ...string) Rule { return Rule{Names: names} }
	typed := func(names ...string) Rule { return Rule{Names: names, Types: []string{"A"}} }
	for _, c := range []struct {
		rules []Rule
		want  []int
	}{
		{[]Rule{plain("b"), plain("a.b", "b"), plain("=b"), typed("c.b"), plain("a")}, []int{1, 2, 3}},
		{[]Rule{plain("=b"), plain("b"), plain("=b"), plain("=a.b")}, []int{2, 3}},
		{[]Rule{plain("=b"), typed("=b"), plain("=a.b")}, []int{1}},
		{[]Rule{typed("b"), plain("b"), plain("b")}, []int{2}},
		{[]Rule{plain("a"), plain("b"), plain("x.a", "x.b"), plain("x.a", "c")}, []int{2}},
		{[]Rule{{}, plain("a"), typed(), {Workloads: []string{"a"}}}, []int{1, 2, 3}},
		{[]Rule{plain("."), plain("a")}, []int{1}},
		{[]Rule{plain("a.b"), plain("b")}, nil},
		{[]Rule{typed(), typed()}, nil}, // not detected
		{[]Rule{{}, {NoNames: true}}, nil},
		{nil, nil},
	} {
		if got := compile(t, c.rules...).Shadowed(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.rules, got, c.want)
		}
	}
}

// TestCompact: a list of names uses little more memory than its bytes, and rules without
// names do not increase the lists of others.
func TestCompact(t *testing.T) {
	const n = 100_000
	s := compile(t, Rule{Names: blockList(n)}, Rule{Names: blockList(n), Types: []string{"A"}})
	if s.names.count != n || len(s.nodes) > 3 {
		t.Errorf("%s in %d nodes", s, len(s.nodes))
	}
	one := compile(t, Rule{Names: blockList(n)})
	if per := one.bytes() / n; per > 48 {
		t.Errorf("%d bytes per name", per)
	}
	if n := s.nodes[len(s.nodes)-1]; n.rule != 0 || n.next != 0 {
		t.Errorf("%+v: other rules follow one that matches everything", n)
	}
	many := make([]Rule, 10_000)
	for i := range many {
		many[i].Workloads = []string{fmt.Sprintf("w%d", i)}
	}
	if s := compile(t, many...); len(s.nodes) != len(many)+1 {
		t.Errorf("%d nodes for %d rules", len(s.nodes), len(many))
	}
}

// bytes returns the memory that depends on the number of names.
func (s *Set) bytes() int { return cap(s.names.arena) + 8*cap(s.names.slots) }

// blockList returns n names of usual length.
func blockList(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("ads%d.tracker%d.example", i, i%977)
	}
	return out
}

// TestTags: two names with the same hash are distinguished.
func TestTags(t *testing.T) {
	tab := newTable(4, 100)
	const h = 42
	a, b := wireName(t, "a.example"), wireName(t, "b.example")
	*tab.find(h, a) = slot{tag: h, at: 1}
	tab.arena = append(append(tab.arena, 0, 0, 0, 0), a...)
	if s := tab.find(h, b); s.at != 0 {
		t.Errorf("b is found at the slot of a: %+v", *s)
	}
	if s := tab.find(h, a); s.at != 1 {
		t.Errorf("a is not found: %+v", *s)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	s := compile(t, Rule{Names: blockList(1000)}, Rule{Workloads: []string{"**/docker-*.scope"}, Nameservers: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	q := Query{Name: wireName(t, "a.b.c.example"), Workload: "/system.slice/docker-0.scope", Nameserver: netip.MustParseAddrPort("[::ffff:10.0.0.1]:53")}
	if got := s.Match(q); got != 1 {
		t.Fatal(got)
	}
	if n := testing.AllocsPerRun(100, func() { s.Match(q) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 100, 10_000, 1_000_000} {
		lists := map[string][]Rule{"list": {{Names: blockList(n)}, {}}}
		if n <= 10_000 {
			var each []Rule
			for _, name := range blockList(n) {
				each = append(each, Rule{Names: []string{name}})
			}
			lists["rules"] = append(each, Rule{})
		}
		for kind, rules := range lists {
			s := compile(b, rules...)
			for what, text := range map[string]string{"hit": "www.ads0.tracker0.example", "miss": "www.some.host.example"} {
				q := Query{Name: wireName(b, text), Type: wire.TypeA}
				b.Run(fmt.Sprintf("%s-%d/%s", kind, n, what), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						s.Match(q)
					}
					b.ReportMetric(float64(s.bytes())/float64(n), "B/name")
				})
			}
		}
	}
}

// BenchmarkMatchSpread queries all names of a list, so that little of it is in the
// processor's caches.
func BenchmarkMatchSpread(b *testing.B) {
	for _, n := range []int{100, 10_000, 1_000_000} {
		list := blockList(n)
		s := compile(b, Rule{Names: list})
		names := make([][]byte, n)
		for i, text := range list {
			names[i] = wireName(b, text)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i = (i + 7919) % n
				s.Match(Query{Name: names[i]})
			}
		})
	}
}

// BenchmarkGlobs measures a query with a hundred rules that have workloads.
func BenchmarkGlobs(b *testing.B) {
	rules := make([]Rule, 100)
	for i := range rules {
		rules[i].Workloads = []string{fmt.Sprintf("system.slice/service%d-*.scope", i)}
	}
	s := compile(b, rules...)
	q := Query{Name: wireName(b, "example."), Workload: "/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"}
	for b.Loop() {
		s.Match(q)
	}
}

// FuzzCompile: Compile accepts any configuration or returns an *Error, and a compiled set can
// be matched.
func FuzzCompile(f *testing.F) {
	f.Add("corp.example", "A", "a/**", "10.0.0.0/8")
	f.Add("=*.a", "TYPE9", "**/x*", "::ffff:0:0/96")
	f.Add(`\255.\000`, "any", "?", "fe80::/10")
	f.Fuzz(func(t *testing.T, name, typ, workload, nameserver string) {
		prefix, _ := netip.ParsePrefix(nameserver)
		for i, r := range []Rule{
			{Names: []string{name}}, {Types: []string{typ}}, {Workloads: []string{workload}}, {Nameservers: []netip.Prefix{prefix}},
		} {
			s, err := Compile([]Rule{r, {}})
			var e *Error
			switch {
			case err != nil && (!errors.As(err, &e) || e.Rule != 1):
				t.Errorf("%+v: %v", r, err)
			case err != nil:
				continue
			case s.Match(Query{Name: []byte("\x01a\x00"), Workload: "a/b"}) < 0:
				t.Errorf("field %d, %+v: the rule without conditions does not match", i, r)
			}
		}
	})
}
