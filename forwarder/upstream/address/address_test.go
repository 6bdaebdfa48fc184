// SPDX-License-Identifier: Apache-2.0

package address

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"sotto/forwarder/upstream/servertest"
	"sotto/forwarder/upstream/transport"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"9.9.9.9":                       "9.9.9.9:853",
		"9.9.9.9:8853":                  "9.9.9.9:8853",
		"9.9.9.9#dns.quad9.net":         "9.9.9.9:853#dns.quad9.net",
		"9.9.9.9:8853#DNS.Quad9.net.":   "9.9.9.9:8853#dns.quad9.net",
		"2620:fe::fe":                   "[2620:fe::fe]:853",
		"2620:fe::fe#dns.quad9.net":     "[2620:fe::fe]:853#dns.quad9.net",
		"[2620:fe::fe]":                 "[2620:fe::fe]:853",
		"[2620:fe::fe]:443#dns.a.b":     "[2620:fe::fe]:443#dns.a.b",
		"[2620:fe::fe]#dns.quad9.net":   "[2620:fe::fe]:853#dns.quad9.net",
		"fe80::1%eth0":                  "[fe80::1%eth0]:853",
		"[fe80::1%eth0]:853#router.lan": "[fe80::1%eth0]:853#router.lan",
		"::ffff:192.0.2.1":              "192.0.2.1:853",
		"127.0.0.1:1#a":                 "127.0.0.1:1#a",

		"192.0.2.1,2001:db8::1#dns.example":                  "192.0.2.1:853,[2001:db8::1]:853#dns.example",
		"192.0.2.1:8853,[2001:db8::1]:8853#DNS.example.":     "192.0.2.1:8853,[2001:db8::1]:8853#dns.example",
		"[2001:db8::1]:853,192.0.2.1:8853":                   "[2001:db8::1]:853,192.0.2.1:8853",
		"192.0.2.1,192.0.2.2,[2001:db8::1],2001:db8::2#a.bc": "192.0.2.1:853,192.0.2.2:853,[2001:db8::1]:853,[2001:db8::2]:853#a.bc",
	} {
		got, err := Parse(in)
		if err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%q: %v, %v; want %s", in, got, err, want)
		}
		if again, err := Parse(want); err != nil || again[0].String() != want {
			t.Errorf("%q is not parsed again: %v, %v", want, again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "the address is missing: want ADDR[:PORT][,ADDR[:PORT]...][#NAME], a URL such as https://dns.example/dns-query, or one of adguard, ",
		"#dns.quad9.net":            "the address is missing",
		"dns.quad9.net":             "write ADDRESS#dns.quad9.net if you know its address, or tls://dns.quad9.net",
		"dns.quad9.net:853":         "or tls://dns.quad9.net",
		"quad10":                    "neither an IP address nor one of adguard, ",
		"9.9.9":                     "",
		"9.9.9.9:":                  "is not a port",
		"9.9.9.9:0":                 "is not a port: want a number from 1 to 65535",
		"9.9.9.9:65536":             "is not a port",
		"9.9.9.9:dot":               "is not a port",
		"[2620:fe::fe]:":            "is not a port",
		"[2620:fe::fe]853":          "is not a port",
		"[2620:fe::fe":              "is not an IP address",
		"2620:fe::fe::":             "with an IPv6 address and a port as [ADDR]:PORT",
		"9.9.9.9#":                  "the name of the server is empty",
		"9.9.9.9#9.9.9.9":           "is an address: remove #9.9.9.9",
		"9.9.9.9#dns..net":          "an empty label or one that is too long",
		"9.9.9.9#dns.quad9.net/x":   "contains '/'",
		"9.9.9.9#a\nb":              `contains '\n'`,
		"0.0.0.0":                   "cannot be a server's address",
		"::":                        "cannot be a server's address",
		"224.0.0.251":               "cannot be a server's address",
		"9.9.9.9#" + long(64):       "one that is too long",
		"9.9.9.9#" + long(60) + ".": "",
		"mullvad":                   "shut down its public DNS servers on 2 November 2026",

		"192.0.2.1,":                        "the address is missing",
		",192.0.2.1":                        "the address is missing",
		"192.0.2.1,dns.example":             "neither an IP address nor one of",
		"192.0.2.1,quad9":                   "neither an IP address nor one of",
		"192.0.2.1, 192.0.2.2":              "is not an IP address",
		"192.0.2.1,192.0.2.1":               "192.0.2.1:853 is listed twice",
		"192.0.2.1,::ffff:192.0.2.1":        "192.0.2.1:853 is listed twice",
		"192.0.2.1,192.0.2.2:8853":          "a port with some addresses only: write it with each",
		"192.0.2.1:8853,2001:db8::1#a.bc":   "a port with some addresses only",
		"192.0.2.1#a.bc,192.0.2.2#a.bc":     "contains ','",
		"192.0.2.1:8853,[2001:db8::1]:0#ab": "is not a port",
	} {
		got, err := Parse(in)
		if strings.HasSuffix(in, long(60)+".") {
			if err != nil {
				t.Errorf("%q: %v", in, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%q: no error, but %v", in, got)
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "read the upstream ") {
			t.Errorf("%q: %q does not contain %q", in, err, want)
		}
	}
}

func long(n int) string { return strings.Repeat("a", n) }

func TestParsePin(t *testing.T) {
	c := servertest.CA().Certificate()
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	text := "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
	p, err := ParsePin(text)
	if err != nil || p != transport.PinOf(c) || p.String() != text {
		t.Errorf("%q: %v, %v", text, p, err)
	}
	for in, want := range map[string]string{
		"":                   "want sha256/BASE64",
		text[7:]:             "want sha256/BASE64",
		"sha1/" + text[7:]:   "want sha256/BASE64",
		"sha256/***":         "44 characters of base64",
		"sha256/AAAA":        "its length is 3 bytes: want the 32",
		text[:len(text)-1]:   "44 characters of base64",
		text + "AAAA":        "",
		" " + text:           "want sha256/BASE64",
		"SHA256/" + text[7:]: "want sha256/BASE64",
	} {
		if _, err := ParsePin(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}
