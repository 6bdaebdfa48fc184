// SPDX-License-Identifier: Apache-2.0

package records

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/miekg/dns"

	"sotto/forwarder/rules"
	"sotto/forwarder/wire"
)

// find returns the records of a question as text: type and data.
func find(t testing.TB, s *Set, name string, typ, class uint16) []string {
	t.Helper()
	n, err := wire.AppendParsed(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	data, count := s.Find(n, typ, class)
	msg := slices.Concat([]byte{0, 0, 0x80, 0, 0, 1, byte(count >> 8), byte(count), 0, 0, 0, 0}, n, []byte{byte(typ >> 8), byte(typ), 0, 1}, data)
	m := new(dns.Msg)
	if err := m.Unpack(msg); err != nil || len(m.Answer) != int(count) {
		t.Fatalf("%s: %v, %d records of %d", name, err, len(m.Answer), count)
	}
	var out []string
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Ttl != wire.LocalTTL || h.Name != m.Question[0].Name || h.Class != dns.ClassINET {
			t.Errorf("%s: %v", name, rr)
		}
		out = append(out, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	return out
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestAddresses(t *testing.T) {
	s, err := Addresses(addrs("192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ, class uint16
		want       []string
	}{
		{wire.TypeA, wire.ClassIN, []string{"A 192.0.2.2", "A 192.0.2.1"}},
		{wire.TypeAAAA, wire.ClassIN, []string{"AAAA 2001:db8::1", "AAAA ::ffff:192.0.2.1"}},
		{wire.TypeANY, wire.ClassANY, []string{"A 192.0.2.2", "A 192.0.2.1", "AAAA 2001:db8::1", "AAAA ::ffff:192.0.2.1"}},
		{wire.TypeA, wire.ClassCH, nil},
		{wire.TypeMX, wire.ClassIN, nil},
		{wire.TypePTR, wire.ClassIN, nil},
	} {
		if got := find(t, s, "any.Name", c.typ, c.class); !slices.Equal(got, c.want) {
			t.Errorf("type %d class %d: %q, want %q", c.typ, c.class, got, c.want)
		}
	}
	if got := find(t, Null(), "x", wire.TypeANY, wire.ClassIN); !slices.Equal(got, []string{"A 0.0.0.0", "AAAA ::"}) {
		t.Errorf("null: %q", got)
	}
	if _, err := Addresses(addrs("fe80::1%eth0")); err == nil || !strings.Contains(err.Error(), "remove %eth0") {
		t.Error(err)
	}
	if _, err := Addresses(make([]netip.Addr, 1)); err == nil {
		t.Error("an invalid address")
	}
	var many []netip.Addr
	for i := range MaxAddresses + 1 {
		many = append(many, netip.AddrFrom16([16]byte{14: byte(i >> 8), 15: byte(i)}))
	}
	if _, err := Addresses(many); err == nil || !strings.Contains(err.Error(), "at most 1000") {
		t.Error(err)
	}
	if s, err = Addresses(many[1:]); err != nil || len(s.every.records) > wire.MaxMessage-wire.MaxErrorLen {
		t.Errorf("the most addresses: %v, %d bytes", err, len(s.every.records))
	}
}

const hostsText = "\ufeff127.0.0.1\tlocalhost\r\n::1 localhost ip6-localhost # the machine\n\n#\n" +
	"192.0.2.1 Printer.example printer\n192.0.2.1 later.example\n2001:db8::1 printer.example\n192.0.2.1 printer.example\n" +
	"0.0.0.0 ads.example\n:: ads.example\n"

func TestHosts(t *testing.T) {
	var h Hosts
	if err := errors.Join(h.Read("one", strings.NewReader(hostsText)), h.Read("two", strings.NewReader("192.0.2.9 printer.example. 1.2.0.192.in-addr.arpa"))); err != nil {
		t.Fatal(err)
	}
	s := h.Set()
	ip6 := "1." + strings.Repeat("0.", 23) + "8.b.d.0.1.0.0.2.ip6.arpa"
	for _, c := range []struct {
		name string
		typ  uint16
		want []string
	}{
		{"localhost", wire.TypeA, []string{"A 127.0.0.1"}},
		{"localhost", wire.TypeAAAA, []string{"AAAA ::1"}},
		{"PRINTER.example", wire.TypeANY, []string{"A 192.0.2.1", "A 192.0.2.9", "AAAA 2001:db8::1"}},
		{"printer", wire.TypeAAAA, nil},
		{"printer", wire.TypeTXT, nil},
		{"1.2.0.192.in-addr.arpa", wire.TypePTR, []string{"PTR printer.example."}},
		{"1.2.0.192.IN-ADDR.arpa", wire.TypeANY, []string{"A 192.0.2.9", "PTR printer.example."}},
		{ip6, wire.TypePTR, []string{"PTR printer.example."}},
		{"1.0.0.127.in-addr.arpa", wire.TypePTR, []string{"PTR localhost."}},
		{"0.0.0.0.in-addr.arpa", wire.TypePTR, nil},
		{"ads.example", wire.TypeA, []string{"A 0.0.0.0"}},
		{"other.example", wire.TypeA, nil},
	} {
		if got := find(t, s, c.name, c.typ, wire.ClassIN); !slices.Equal(got, c.want) {
			t.Errorf("%s %d: %q, want %q", c.name, c.typ, got, c.want)
		}
	}
	names := h.Names()
	set, err := rules.Compile([]rules.Rule{{Names: names}})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{"printer": 0, "x.printer": -1, "1.2.0.192.in-addr.arpa": 0, ip6: 0, "0.0.0.0.in-addr.arpa": -1, "other.example": -1} {
		n, _ := wire.AppendParsed(nil, text)
		if got := set.Match(rules.Query{Name: n}); got != want {
			t.Errorf("a rule with the names %q matches %s: %d, want %d", names, text, got, want)
		}
	}
}

func TestHostsErrors(t *testing.T) {
	many := ""
	for i := range MaxAddresses + 1 {
		many += fmt.Sprintf("10.0.%d.%d x\n", i>>8, i&255)
	}
	for line, want := range map[string]string{
		"printer.example":                  `it does not start with an address`,
		"192.0.2 x":                        `"192.0.2": it does not start with an address`,
		"192.0.2.1":                        `no name follows the address`,
		"192.0.2.1 # name":                 `no name follows the address`,
		"fe80::1%lo0 localhost":            `remove %lo0`,
		"192.0.2.1 a..b":                   `"a..b": it has an empty label`,
		"192.0.2.1 good *.example":         `has no wildcards`,
		"192.0.2.1 é":                      `not ASCII`,
		strings.Repeat("x", maxLine+1):     `longer than 65536 bytes`,
		"192.0.2.1 " + "." + "example":     `empty label`,
		strings.TrimSuffix(many, "\n")[5:]: `does not start`,
	} {
		var h Hosts
		err := h.Read("file", strings.NewReader("192.0.2.1 good\n#\n"+line+"\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "file:3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v: want file:3: and %s", line, err, want)
		}
	}
	var h Hosts
	if err := h.Read("file", strings.NewReader(many)); err == nil || !strings.HasPrefix(err.Error(), "file:1001: ") {
		t.Error(err)
	}
	if err := h.Read("file", iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	var h Hosts
	if err := h.Read("file", strings.NewReader(hostsText)); err != nil {
		t.Fatal(err)
	}
	s, name := h.Set(), []byte("\x07PRINTER\x07example\x00")
	if n := testing.AllocsPerRun(100, func() {
		if _, count := s.Find(name, wire.TypeA, wire.ClassIN); count != 1 {
			t.Fatal(count)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzHosts: whatever a hosts file contains, its names compile, each has its addresses, and
// the answer is well-formed.
func FuzzHosts(f *testing.F) {
	f.Add(hostsText)
	f.Add("192.0.2.1 1.2.0.192.in-addr.arpa \\042\\046x a\n::ffff:1.2.3.4 =x ==y")
	f.Fuzz(func(t *testing.T, text string) {
		var h Hosts
		if err := h.Read("file", strings.NewReader(text)); err != nil {
			if !strings.HasPrefix(err.Error(), "file:") {
				t.Error(err)
			}
			return
		}
		names, s := h.Names(), h.Set()
		if _, err := rules.Compile([]rules.Rule{{Names: names}}); err != nil {
			t.Errorf("%q: %v", names, err)
		}
		for _, name := range names {
			if len(find(t, s, strings.TrimPrefix(name, "="), wire.TypeANY, wire.ClassIN)) == 0 {
				t.Errorf("%q has no records", name)
			}
		}
	})
}
