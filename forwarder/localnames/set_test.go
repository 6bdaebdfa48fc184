// SPDX-License-Identifier: Apache-2.0

package localnames

import (
	"testing"

	"sotto/forwarder/wire"
)

func name(tb testing.TB, text string) []byte {
	tb.Helper()
	b, err := wire.AppendParsed(nil, text)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestContains(t *testing.T) {
	s, err := New(Default())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		".": false, "printer": true, "PRINTER": true, "com": true, "localhost": true, "a.localhost": true,
		"printer.local": true, "Printer.LOCAL": true, "nas.home.arpa": true, "home.arpa": true, "db.internal": true,
		"web.dns.podman": true, "web.podman": false, "dns.podman.example": false,
		"1.2.3.10.in-addr.arpa": true, "1.0.16.172.in-addr.arpa": true, "1.0.15.172.in-addr.arpa": false,
		"1.0.31.172.in-addr.arpa": true, "1.0.32.172.in-addr.arpa": false, "1.1.168.192.in-addr.arpa": true,
		"1.1.254.169.in-addr.arpa": true, "1.0.64.100.in-addr.arpa": true, "1.0.63.100.in-addr.arpa": false,
		"8.8.8.8.in-addr.arpa": false, "1.d.f.ip6.arpa": true, "1.8.e.f.ip6.arpa": true, "1.0.8.b.d.0.1.0.0.2.ip6.arpa": false,
		"arpa": true, "in-addr.arpa": false, "resolver.arpa": false,
		"example.com": false, "local.example.com": false, "xlocal": true, "a.xlocal": false, "internal.example": false,
		"corp.example": false, "nas.lan": true, "www.test": false,
	} {
		if got := s.Contains(name(t, text), wire.TypeA); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, typ := range []uint16{wire.TypeDS, wire.TypeNS, wire.TypeSOA, wire.TypeDNSKEY} {
		if s.Contains(name(t, "com"), typ) {
			t.Errorf("com %s", wire.TypeName(typ))
		}
	}
	for _, bad := range []string{"", "\x03com", "\xc0\x0c", "\x40a\x00"} {
		if s.Contains([]byte(bad), wire.TypeA) {
			t.Errorf("%q", bad)
		}
	}
}

func TestWith(t *testing.T) {
	s, err := New([]string{Resolved, "local"})
	if err != nil || !s.UsesResolved() {
		t.Fatal(s, err)
	}
	with := s.With([]string{"Corp.Example", "lan", ".", "com.", "a..b"})
	for text, want := range map[string]bool{
		"db.corp.example": true, "corp.example": true, "x.local": true,
		"x.lan": false, "example.com": false, "single": false,
	} {
		if got := with.Contains(name(t, text), wire.TypeA); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if s.Contains(name(t, "corp.example"), wire.TypeA) {
		t.Error("With changed the set")
	}
}

func TestInvalid(t *testing.T) {
	for _, list := range [][]string{{"."}, {""}, {"a..b"}, {"<all>"}} {
		if _, err := New(list); err == nil {
			t.Errorf("%q was accepted", list)
		}
	}
}

func TestContainsAllocates(t *testing.T) {
	s, _ := New(Default())
	long := name(t, "1.2.3.10.in-addr.arpa")
	if n := testing.AllocsPerRun(100, func() { s.Contains(long, wire.TypePTR) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzContains(f *testing.F) {
	s, err := New(Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x03www\x05local\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) { s.Contains(b, wire.TypeA) })
}

func BenchmarkContains(b *testing.B) {
	s, _ := New(Default())
	n := name(b, "www.example.com")
	for b.Loop() {
		s.Contains(n, wire.TypeA)
	}
}
