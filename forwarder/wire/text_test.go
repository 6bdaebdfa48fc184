// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestParseType(t *testing.T) {
	for n := range 1 << 16 {
		if got, ok := ParseType(TypeName(uint16(n))); !ok || int(got) != n {
			t.Fatalf("%s: %d, %v", TypeName(uint16(n)), got, ok)
		}
	}
	for s, want := range map[string]uint16{"aaaa": TypeAAAA, "Https": TypeHTTPS, "any": TypeANY, "type1": TypeA, "TYPE65535": 65535} {
		if got, ok := ParseType(s); !ok || got != want {
			t.Errorf("%s: %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "AAAAA", "TYPE", "TYPE65536", "TYPE-1", "TYPE+1", "28", "*"} {
		if got, ok := ParseType(s); ok {
			t.Errorf("%q was parsed as %d", s, got)
		}
	}
}

func TestAppendParsed(t *testing.T) {
	good := map[string][]byte{
		".":                name(),
		"example":          name("example"),
		"Example.":         name("Example"),
		`a\.b.c`:           name("a.b", "c"),
		`\000\255\ \\x.`:   name("\x00\xff \\x"),
		`\065.b`:           name("A", "b"),
		"_dns._tcp.a":      name("_dns", "_tcp", "a"),
		"*.a":              name("*", "a"),
		Name(longName()):   longName(),
		`a@b"c;d(e)f$g.h.`: name(`a@b"c;d(e)f$g`, "h"),
	}
	for s, want := range good {
		got, err := AppendParsed([]byte("x"), s)
		if err != nil || !bytes.Equal(got, cat([]byte("x"), want)) {
			t.Errorf("%s: %q, %v", s, got, err)
		}
	}
	l := strings.Repeat("x", 64)
	bad := map[string]error{
		"": errTextEmpty, "..": errTextDots, ".a": errTextDots, "a..b": errTextDots, "a..": errTextDots,
		`a\`: errTextEscape, `\25`: errTextEscape, `\256`: errTextEscape, `\2x5`: errTextEscape,
		"a b": errTextBytes, "bücher.example": errTextBytes, "a\t": errTextBytes,
		l + ".a": errTextLabel, "a." + l: errTextLabel, strings.Repeat(`\000`, 64): errTextLabel,
		"y." + Name(longName()): errTextName,
	}
	for s, want := range bad {
		if got, err := AppendParsed([]byte("x"), s); !errors.Is(err, want) || string(got) != "x" {
			t.Errorf("%q: %q, %v: want %v", s, got, err, want)
		}
	}
}

// FuzzParsedName: an accepted name is well-formed, equals the result of another library, and
// survives a round trip through its presentation form.
func FuzzParsedName(f *testing.F) {
	for _, s := range []string{".", "example.com", `a\.b.c.`, `\000\255.x`, "a..b", `x\`, `\25`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := AppendParsed(nil, s)
		if err != nil {
			return
		}
		if end, err := plainName(got, 0); err != nil || end != len(got) {
			t.Fatalf("%q: %q: %v", s, got, err)
		}
		again, err := AppendParsed(nil, Name(got))
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("%q: %q comes back as %q, %v", s, got, again, err)
		}
		var room [MaxName + 1]byte
		n, err := dns.PackDomainName(dns.Fqdn(s), room[:], 0, nil, false)
		if err == nil && !bytes.Equal(room[:n], got) {
			t.Errorf("%q: %q: miekg/dns has %q", s, got, room[:n])
		}
	})
}
