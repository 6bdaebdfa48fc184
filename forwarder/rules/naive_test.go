// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/wire"
)

// naive is a simple implementation of Match to compare with: it tries every rule and every
// name, with another parser for names, and regular expressions for globs.
func naive(rules []Rule, q Query) int {
	for i := range rules {
		r := &rules[i]
		if !naiveMatches(r, &q) {
			continue
		}
		switch open := naivePod(r, q.Pod); {
		case open == "yes":
			return i
		case open == "unknown" && !r.IfKnown:
			return UnknownPod
		}
	}
	return NoRule
}

// naivePod returns "yes", "no" or "unknown". It tries what is not known as both.
func naivePod(r *Rule, p *Pod) string {
	if len(r.Pods)+len(r.PodLabels)+len(r.NamespaceLabels) == 0 && !r.OptedOut {
		return "yes"
	}
	if p == nil {
		return "no"
	}
	named := len(r.Pods) == 0 || slices.ContainsFunc(r.Pods, func(s string) bool { return naiveGlob(s).MatchString(p.Name) })
	labelled := (len(r.PodLabels) == 0 || slices.ContainsFunc(r.PodLabels, func(s string) bool { return naiveSelects(s, p.Labels) })) &&
		(len(r.NamespaceLabels) == 0 || slices.ContainsFunc(r.NamespaceLabels, func(s string) bool { return naiveSelects(s, p.NamespaceLabels) })) &&
		(!r.OptedOut || p.OptedOut)
	results := map[bool]bool{}
	for _, n := range alternatives(len(r.Pods) > 0 && p.Name == "", named) {
		for _, l := range alternatives(len(r.PodLabels)+len(r.NamespaceLabels) > 0 && !p.LabelsKnown || r.OptedOut && !p.LabelsKnown, labelled) {
			results[n && l] = true
		}
	}
	switch {
	case len(results) == 2:
		return "unknown"
	case results[true]:
		return "yes"
	}
	return "no"
}

func alternatives(open, is bool) []bool {
	if open {
		return []bool{false, true}
	}
	return []bool{is}
}

func naiveSelects(s string, labels map[string]string) bool {
	for _, part := range strings.Split(s, ",") {
		key, value, compares := strings.Cut(part, "=")
		has, ok := labels[strings.Trim(key, "!")]
		is := ok && (!compares || has == value)
		if is == strings.Contains(part, "!") {
			return false
		}
	}
	return true
}

func naiveMatches(r *Rule, q *Query) bool {
	queried := labels(q.Name)
	if len(r.Names) > 0 && !slices.ContainsFunc(r.Names, func(s string) bool { return naiveName(s, queried) }) {
		return false
	}
	if len(r.Types) > 0 && !slices.ContainsFunc(r.Types, func(s string) bool { return s == wire.TypeName(q.Type) }) {
		return false
	}
	if len(r.Opcodes) > 0 && !slices.ContainsFunc(r.Opcodes, func(s string) bool { return s == dns.OpcodeToString[int(q.Opcode)] }) {
		return false
	}
	if r.RD != nil && (q.Opcode != wire.OpcodeQuery || *r.RD != q.RD) {
		return false
	}
	nameserver := q.Nameserver.Addr().Unmap().WithZone("")
	if len(r.Nameservers) > 0 && !slices.ContainsFunc(r.Nameservers, func(p netip.Prefix) bool { return p.Contains(nameserver) }) {
		return false
	}
	path := strings.TrimPrefix(q.Workload, "/")
	return len(r.Workloads) == 0 || q.Workload != "" &&
		slices.ContainsFunc(r.Workloads, func(s string) bool { return naiveGlob(s).MatchString(path) })
}

// labels splits a wire name.
func labels(b []byte) []string {
	var out []string
	for len(b) > 0 && b[0] != 0 {
		out = append(out, strings.ToLower(string(b[1:1+b[0]])))
		b = b[1+b[0]:]
	}
	return out
}

func naiveName(s string, queried []string) bool {
	s, exact := strings.CutPrefix(s, "=")
	var room [256]byte
	n, err := dns.PackDomainName(dns.Fqdn(s), room[:], 0, nil, false)
	if err != nil {
		panic(err)
	}
	want := labels(room[:n])
	if exact && len(want) != len(queried) || len(want) > len(queried) {
		return false
	}
	return slices.Equal(want, queried[len(queried)-len(want):])
}

var naiveGlobs = map[string]*regexp.Regexp{}

func naiveGlob(s string) *regexp.Regexp {
	if re := naiveGlobs[s]; re != nil {
		return re
	}
	path := strings.TrimPrefix(s, "/")
	expr := "^(?s:"
	for i := 0; i < len(path); i++ {
		rest := path[i:]
		switch {
		case strings.HasPrefix(rest, "**/") && (i == 0 || path[i-1] == '/'):
			expr += "(.*/)?"
			i += 2
		case rest == "/**":
			expr += "(/.*)?"
			i += 2
		case strings.HasPrefix(rest, "**"):
			expr += ".*"
			i++
		case rest[0] == '*':
			expr += "[^/]*"
		case rest[0] == '?':
			expr += "[^/]"
		default:
			expr += regexp.QuoteMeta(rest[:1])
		}
	}
	re := regexp.MustCompile(expr + ")$")
	naiveGlobs[s] = re
	return re
}

// dice makes rules and queries from random bytes. There are few words, so that many match.
type dice struct{ data []byte }

func (d *dice) roll(n int) int {
	if len(d.data) == 0 {
		return 0
	}
	v := int(d.data[0]) % n
	d.data = d.data[1:]
	return v
}

func pick[T any](d *dice, from ...T) T { return from[d.roll(len(from))] }

func several[T any](d *dice, one func() T) []T {
	var out []T
	for range max(0, d.roll(5)-1) {
		out = append(out, one())
	}
	return out
}

func (d *dice) text() string {
	s := pick(d, "", "", "=")
	for range d.roll(4) {
		s += pick(d, "a", "B", "b", `a\.b`, `\000`, "c") + "."
	}
	if s == "" || s == "=" {
		s += "."
	}
	return s
}

func (d *dice) path(words ...string) string {
	s := ""
	for range 1 + d.roll(7) {
		s += pick(d, words...)
	}
	return s
}

func (d *dice) rule() Rule {
	r := Rule{
		Names: several(d, d.text),
		Types: several(d, func() string { return pick(d, "A", "AAAA", "TYPE65280") }),
		Nameservers: several(d, func() netip.Prefix {
			return netip.MustParsePrefix(pick(d, "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "fe80::/10", "10.1.2.3/32"))
		}),
		Workloads: several(d, func() string { return d.path("a", "b", "/", "*", "**", "?", `\x2d`) }),
		Opcodes:   several(d, func() string { return pick(d, "QUERY", "NOTIFY", "UPDATE") }),
	}
	if d.roll(3) == 0 {
		label := func() string { return pick(d, "app=a", "app!=a", "app", "!app", "app=b,!tier", "tier=x,app!=b") }
		r.Pods = several(d, func() string { return pick(d, "one/*", "*/a", "two/b", "**") })
		r.PodLabels, r.NamespaceLabels = several(d, label), several(d, label)
		r.OptedOut, r.IfKnown = d.roll(4) == 0, d.roll(2) == 0
	}
	if len(r.Opcodes) == 0 || slices.Contains(r.Opcodes, "QUERY") {
		r.RD = pick(d, nil, nil, new(bool), &yes)
	}
	return r
}

var yes = true

func (d *dice) query() Query {
	q := Query{
		Type:   pick(d, wire.TypeA, wire.TypeAAAA, 65280),
		Opcode: pick(d, wire.OpcodeQuery, wire.OpcodeQuery, wire.OpcodeNotify, wire.OpcodeUpdate),
		RD:     pick(d, true, false),
	}
	q.Name, _ = wire.AppendParsed(nil, strings.TrimPrefix(d.text(), "="))
	if d.roll(4) > 0 {
		q.Workload = d.path("a", "b", "/", `\x2d`)
	}
	if d.roll(4) > 0 {
		labels := func() map[string]string {
			return pick(d, nil, map[string]string{"app": "a"}, map[string]string{"app": "b", "tier": "x"})
		}
		q.Pod = &Pod{Name: pick(d, "", "one/a", "one/b", "two/b")}
		if q.Pod.LabelsKnown = d.roll(3) > 0; q.Pod.LabelsKnown {
			q.Pod.Labels, q.Pod.NamespaceLabels, q.Pod.OptedOut = labels(), labels(), d.roll(2) == 0
		}
	}
	addr := pick(d, "", "10.1.2.3", "::ffff:10.9.9.9", "2001:db8::1", "fe80::1%eth0", "192.0.2.1")
	if addr != "" {
		q.Nameserver = netip.AddrPortFrom(netip.MustParseAddr(addr), 53)
	}
	return q
}

// compare checks Match, Use and Shadowed with rules and queries made from data.
func compare(t *testing.T, data []byte) {
	d := &dice{data}
	var rules []Rule
	for i := range d.roll(8) {
		r := d.rule()
		// Other tests cover invalid patterns.
		r.Workloads = slices.DeleteFunc(r.Workloads, func(s string) bool { _, err := compileGlob(s); return err != nil })
		r.Use = fmt.Sprint(i)
		rules = append(rules, r)
	}
	s, err := Compile(rules)
	if err != nil {
		t.Fatalf("%+v: %v", rules, err)
	}
	for range 16 {
		q := d.query()
		want := naive(rules, q)
		got := s.Match(q)
		if got != want {
			t.Fatalf("rules %+v\nquery %+v\nmatches %d: want %d", rules, q, got, want)
		}
		if got >= 0 && s.Use(got) != fmt.Sprint(got) {
			t.Errorf("rule %d has the use %q", got, s.Use(got))
		}
		if slices.Contains(s.Shadowed(), got) {
			t.Fatalf("rules %+v\nquery %+v\nmatches %d, which Shadowed returns", rules, q, got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for i := range uint64(8) {
		f.Add(randomBytes(i, 300))
	}
	f.Fuzz(compare)
}

func TestMatchLikeNaive(t *testing.T) {
	for i := range uint64(3000) {
		compare(t, randomBytes(i, 400))
	}
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// FuzzGlob compares globs with regular expressions.
func FuzzGlob(f *testing.F) {
	for _, s := range []string{"system.slice/docker-*.scope", "**/x", "a/**", "a**b*c?", "*a*b", "**/a/**/b*"} {
		f.Add(s, "a/b/x")
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		g, err := compileGlob(pattern)
		if err != nil || len(pattern) > 100 || bytes.ContainsFunc([]byte(pattern+path), func(r rune) bool { return r >= 0x80 }) {
			return // regular expressions match runes, globs match bytes
		}
		clear(naiveGlobs)
		if got, want := g.match(path), naiveGlob(pattern).MatchString(path); got != want {
			t.Errorf("%q on %q: %v, want %v", pattern, path, got, want)
		}
	})
}
