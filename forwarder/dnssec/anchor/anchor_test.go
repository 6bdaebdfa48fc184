// SPDX-License-Identifier: Apache-2.0

package anchor

import (
	"strings"
	"testing"

	"sotto/forwarder/dnssec/record"
)

// TestParse: files of unbound, BIND and IANA are read, and mistakes are found with their line.
func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		text, err string
		keys      int
	}{
		"IANA":    {". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n", "", 1},
		"unbound": {"; autotrust trust anchor file\n;;id: . 1\n.\t86400\tIN\tDNSKEY\t257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= ;{id = 3613 (ksk), size = 256b} ;;state=2 [  VALID  ]\n", "", 1},
		"BIND":    {"; This is a key-signing key\nexample. IN DNSKEY 257 3 15 (\n\tl02Woi0iS8Aa25FQkUd9RM\n\tzZHJpBoRQwAQEX1SxZJA4= )\n", "", 1},
		"two":     {"a. DS 1 8 2 " + strings.Repeat("ab", 32) + "\nb. 60 IN DS 2 13 4 " + strings.Repeat("ab", 48) + "\n", "", 2},
		"revoked": {"a. DNSKEY 385 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=\n", "no DS or DNSKEY", 0},
		"empty":   {"\n; nothing\n", "no DS or DNSKEY", 0},
		"other":   {"\n. IN NS a.root-servers.net.\n", "line 2: want a DS or DNSKEY", 0},
		"address": {". IN A 1 2 3 192.0.2.1\n", "line 1: want a DS or DNSKEY", 0},
		"hex":     {". IN DS 1 8 2 xyz\n", "not hexadecimal", 0},
		"digest":  {". IN DS 1 8 3 abcd\n", "digest type 3", 0},
		"number":  {". IN DS 70000 8 2 abcd\n", "70000", 0},
		"base64":  {". DNSKEY 257 3 15 !!!!\n", "base64", 0},
		"open":    {". DNSKEY 257 3 15 ( abcd\n", "parenthesis", 0},
		"name":    {"a..b DS 1 8 2 abcd\n", "empty label", 0},
		"BIND 9":  {"trust-anchors { . initial-key 257 3 8 \"AwEAAa\"; };\n", "line 1", 0},
	} {
		s := NewSet()
		err := s.Parse(tc.text)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) || err == nil && s.Len() != tc.keys {
			t.Errorf("%s: %v, %d keys: want %q, %d", name, err, s.Len(), tc.err, tc.keys)
		}
	}
}

// TestOmittedOwner: a record that starts with a blank has the owner of the one before it.
func TestOmittedOwner(t *testing.T) {
	digest := " 8 2 " + strings.Repeat("ab", 32) + "\n"
	for text, want := range map[string]int{
		"a. IN DS 1" + digest + "   IN DS 2" + digest:                         2,
		"a. 60 DS 1" + digest + "\n ; comment\n\tDS 2" + digest:               2,
		"a. DS 1" + digest + " 60 IN DS 2" + digest + "\tIN 60 DS 3" + digest: 3,
		"a. DS (\n 1" + digest + ")\n ( DS\n2" + digest + ")":                 2,
		"b. DS 1" + digest + "a. DS 2" + digest + " DS 3" + digest:            2,
	} {
		s := NewSet()
		if err := s.Parse(text); err != nil || len(s.Digests(must(t, "a."))) != want {
			t.Errorf("%q: %v, %v: want %d of a.", text, err, s.trusted, want)
		}
	}
	for text, want := range map[string]string{
		"\n IN DS 1" + digest:                       "line 2: a line that starts with a blank",
		"a. DS 1" + digest + "  . IN DS 2" + digest: "without the owner in a line that starts with a blank",
	} {
		if err := NewSet().Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v: want %s", text, err, want)
		}
	}
}

// TestClosest: the closest anchor decides, positive or negative.
func TestClosest(t *testing.T) {
	s := Root()
	if s.Len() != 2 {
		t.Errorf("%d keys of the root", s.Len())
	}
	if err := s.Parse("deep.corp.example. DS 1 8 2 " + strings.Repeat("ab", 32)); err != nil {
		t.Fatal(err)
	}
	s.AddNegative(must(t, "corp.example."))
	for name, want := range map[string]string{"a.": ".", ".": ".", "example.": ".", "corp.example.": "", "a.corp.example.": "", "xcorp.example.": ".", "deep.corp.example.": "deep.corp.example.", "a.deep.corp.example.": "deep.corp.example."} {
		zone, ok := s.Closest(must(t, name))
		if ok != (want != "") || ok && zone.String() != want {
			t.Errorf("%s: %v %v: want %q", name, zone, ok, want)
		}
	}
}

func must(t *testing.T, name string) record.Name {
	t.Helper()
	n, err := ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
