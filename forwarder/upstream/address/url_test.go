// SPDX-License-Identifier: Apache-2.0

package address

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"sotto/forwarder/upstream/transport"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"tls://dns.example":                       "tls://dns.example",
		"TLS://DNS.Example.:8853":                 "tls://dns.example:8853",
		"tls://dns.example:853":                   "tls://dns.example",
		"tls://9.9.9.9":                           "9.9.9.9:853",
		"tls://9.9.9.9#dns.quad9.net":             "9.9.9.9:853#dns.quad9.net",
		"tls://9.9.9.9,2620:fe::fe#dns.quad9.net": "9.9.9.9:853,[2620:fe::fe]:853#dns.quad9.net",
		"tls://dns.quad9.net#9.9.9.9,2620:fe::fe": "9.9.9.9:853,[2620:fe::fe]:853#dns.quad9.net",
		"tls://dns.quad9.net:853#[2620:fe::fe]":   "[2620:fe::fe]:853#dns.quad9.net",
		"tls://dns.quad9.net/":                    "tls://dns.quad9.net",

		"https://dns.example":                                  "https://dns.example/dns-query",
		"https://dns.example/":                                 "https://dns.example/dns-query",
		"https://dns.example/dns-query":                        "https://dns.example/dns-query",
		"https://dns.example:8443/a/b%20c":                     "https://dns.example:8443/a/b%20c",
		"https://dns.example/dns-query{?dns}":                  "https://dns.example/dns-query{?dns}",
		"https://dns.example{?dns}":                            "https://dns.example/dns-query{?dns}",
		"https://dns.example/{?dns}":                           "https://dns.example/{?dns}",
		"https://dns.example/dns-query#192.0.2.1,2001:db8::1":  "https://dns.example/dns-query#192.0.2.1,2001:db8::1",
		"https://dns.example:8443/q#192.0.2.1":                 "https://dns.example:8443/q#192.0.2.1",
		"https://192.0.2.1/dns-query":                          "https://192.0.2.1/dns-query",
		"https://192.0.2.1/dns-query#dns.example":              "https://dns.example/dns-query#192.0.2.1",
		"https://[2001:db8::1]:8443/q":                         "https://[2001:db8::1]:8443/q",
		"https://[2001:db8::1]":                                "https://[2001:db8::1]/dns-query",
		"h3://dns.example/p0":                                  "h3://dns.example/p0",
		"h3://dns.example:443":                                 "h3://dns.example/dns-query",
		"quic://dns.example":                                   "quic://dns.example",
		"quic://192.0.2.1:8853,[2001:db8::1]:8853#dns.example": "quic://dns.example:8853#192.0.2.1,2001:db8::1",
		"quic://2001:db8::1":                                   "quic://[2001:db8::1]",
		"quic://[fe80::1%eth0]:784#router.lan":                 "quic://router.lan:784#fe80::1%eth0",
		"auto://dns.example":                                   "auto://dns.example/dns-query",
		"auto://dns.example/q#192.0.2.1":                       "auto://dns.example/q#192.0.2.1",
		"quic://192.0.2.1:8853,[2001:db8::1]:8853":             "quic://192.0.2.1:8853,[2001:db8::1]:8853",
		"https://192.0.2.1,2001:db8::1":                        "https://192.0.2.1,[2001:db8::1]/dns-query",
		"auto://192.0.2.1":                                     "auto://192.0.2.1/dns-query",
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

func TestParseURLErrors(t *testing.T) {
	for in, want := range map[string]string{
		"udp://9.9.9.9":                            "plain DNS, which is never used for upstreams: write tls://",
		"dns://9.9.9.9":                            "plain DNS",
		"doq://dns.example":                        "write quic://",
		"dot://dns.example":                        "write tls://",
		"http://dns.example/dns-query":             "write https://, or h3:// for HTTP/3",
		"ftp://dns.example":                        "want tls, https, h3, quic, auto or sdns",
		"://dns.example":                           `the scheme "" is not known`,
		"tls://":                                   "the address is missing",
		"https:///dns-query":                       "the address is missing",
		"tls://dns.example/dns-query":              "tls:// has no path",
		"quic://dns.example/x":                     "quic:// has no path",
		"https://dns.example/?dns=x":               "has a query: remove what follows the ?",
		"https://dns.example?x":                    "has a query",
		"https://dns.example/{x}":                  "other parts than {?dns}",
		"https://dns.example/{?dns}/x":             "other parts than {?dns}",
		"https://dns.example/a b":                  "encode it, as %20",
		"https://dns.example/ä":                    "encode it, as %C3",
		"https://dns.example/\r\nX: y":             "encode it, as %0D",
		"https://me:x@dns.example/":                "contains a user name: remove it",
		"https://dns..example/":                    "an empty label",
		"https://dns.example:0/":                   "is not a port",
		"https://dns.example:https/":               "is not a port",
		"https://dns.example/#":                    `"" after # is not an IP address`,
		"https://dns.example/#dns.other":           "is not an IP address: want the addresses of the server",
		"https://dns.example/#192.0.2.1:443":       "without a port",
		"https://dns.example/#192.0.2.1,192.0.2.1": "192.0.2.1 is listed twice",
		"https://dns.example/#0.0.0.0":             "cannot be a server's address",
		"quic://224.0.0.251":                       "cannot be a server's address",
		"tls://9.9.9.9#9.9.9.9":                    "is an address: remove #9.9.9.9",
		"quic://dns.example:53":                    "must not use port 53",
		"quic://192.0.2.1:53#dns.example":          "must not use port 53",
		"auto://dns.example:853":                   "auto:// with a port: remove it",
		"quic://192.0.2.1:1,192.0.2.2:2":           "has different ports",
		"auto://192.0.2.1:853":                     "auto:// with a port",
		"tls://mullvad":                            "shut down its public DNS servers",
		"tls://192.0.2.1,dns.example":              "neither an IP address nor one of",
	} {
		got, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "read the upstream ") {
			t.Errorf("%q: %v, %v; want %q", in, got, err, want)
		}
	}
}

// lp and vlp encode the fields of a stamp.
func lp(s string) string { return string(rune(len(s))) + s }

func vlp(set ...string) string {
	out := ""
	for i, s := range set {
		n := byte(len(s))
		if i < len(set)-1 {
			n |= 0x80
		}
		out += string([]byte{n}) + s
	}
	return out
}

func stampOf(fields ...string) string {
	return "sdns://" + base64.RawURLEncoding.EncodeToString([]byte(strings.Join(fields, "")))
}

const props = "\x07\x00\x00\x00\x00\x00\x00\x00"

// TestParseStamp reads stamps of DNSCrypt's list of public resolvers, and ones made here.
func TestParseStamp(t *testing.T) {
	hash := strings.Repeat("\xAB", 32)
	other := strings.Repeat("\xCD", 32)
	for in, want := range map[string]string{
		// Published by others.
		"sdns://AgcAAAAAAAAADjE4NS4yMTYuMjcuMTQyID4aGg9sU_PpekktVwhLW5gHBZ7gV6sVBYdv2D_aPbg4CmRvaC40MmwuZnIKL2Rucy1xdWVyeQ": "https://doh.42l.fr/dns-query#185.216.27.142 3e1a1a0f6c53f3e97a492d57084b5b9807059ee057ab1505876fd83fda3db838",

		stampOf("\x02", props, lp("9.9.9.9"), vlp(""), lp("dns.quad9.net"), lp("/dns-query")):                             "https://dns.quad9.net/dns-query#9.9.9.9",
		stampOf("\x02", props, lp("9.9.9.9:5053"), vlp(hash, other), lp("dns.quad9.net"), lp("/x")) + "=":                 "https://dns.quad9.net:5053/x#9.9.9.9 " + hex.EncodeToString([]byte(hash+other)),
		stampOf("\x02", props, lp(""), vlp(""), lp("dns.quad9.net"), lp("/dns-query"), vlp("9.9.9.9", "149.112.112.112")): "https://dns.quad9.net/dns-query",
		stampOf("\x02", props, lp(":8443"), vlp(""), lp("dns.quad9.net"), lp("")):                                         "https://dns.quad9.net:8443/dns-query",
		stampOf("\x02", props, lp(""), vlp(""), lp("dns.quad9.net:8443"), lp("/dns-query")):                               "https://dns.quad9.net:8443/dns-query",
		stampOf("\x03", props, lp("[2620:fe::fe]"), vlp(hash), lp("DNS.quad9.net")):                                       "[2620:fe::fe]:853#dns.quad9.net " + hex.EncodeToString([]byte(hash)),
		stampOf("\x03", props, lp("9.9.9.9:8853"), vlp(""), lp("")):                                                       "9.9.9.9:8853",
		stampOf("\x03", props, lp("9.9.9.9"), vlp(""), lp("9.9.9.9")):                                                     "9.9.9.9:853",
		stampOf("\x04", props, lp(""), vlp(""), lp("dns.adguard-dns.com:784")):                                            "quic://dns.adguard-dns.com:784",
		stampOf("\x04", props, lp("[fe80::1%eth0]"), vlp(""), lp("a.bc"), vlp("192.0.2.1")):                               "quic://a.bc#fe80::1%eth0",
	} {
		got, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		text := got[0].String()
		for i, h := range got[0].CertHashes {
			if i == 0 {
				text += " "
			}
			text += hex.EncodeToString(h[:])
		}
		if text != want {
			t.Errorf("%s: %s, want %s", in, text, want)
		}
	}
}

func TestParseStampErrors(t *testing.T) {
	for in, want := range map[string]string{
		"sdns://":      "ends too early",
		"sdns://!":     "not in base64url",
		"sdns://AgcAA": "base64url",
		"sdns://AQIAAAAAAAAAETk0LjE0MC4xNC4xNDo1NDQzINErR_JS3PLCu_iZEIbq95zkSV2LFsigxDIuUso_OQhzIjIuZG5zY3J5cHQuZGVmYXVsdC5uczEuYWRndWFyZC5jb20": "for DNSCrypt, which is not supported: use a stamp for DoH, DoT or DoQ",
		stampOf("\x00", props, lp("9.9.9.9")):                                           "for plain DNS",
		stampOf("\x05", props, lp("a.bc"), lp("/")):                                     "for Oblivious DoH",
		stampOf("\x81", props, lp("9.9.9.9")):                                           "for DNSCrypt",
		stampOf("\x42", props):                                                          "unknown protocol (0x42)",
		stampOf("\x02", props[:3]):                                                      "ends too early",
		stampOf("\x02", props, lp("9.9.9.9"), vlp(""), lp("a.bc")):                      "ends too early",
		stampOf("\x02", props, lp("9.9.9.9"), vlp("short"), lp("a.bc"), lp("/")):        "a certificate hash of 5 bytes",
		stampOf("\x03", props, lp("9.9.9.9"), vlp(""), lp("a.bc"), vlp("9.9.9.9"), "x"): "data after its end",
		stampOf("\x03", props, lp("nonsense"), vlp(""), lp("a.bc")):                     "is neither an IP address",
		stampOf("\x03", props, lp("9.9.9.9"), vlp(""), lp("9.9.9.10")):                  "has the address 9.9.9.9 and, as its name, the address 9.9.9.10",
		stampOf("\x03", props, lp(""), vlp(""), lp("")):                                 "is empty",
		stampOf("\x03", props, lp(":x"), vlp(""), lp("a.bc")):                           "is not a port",
		stampOf("\x04", props, lp(":53"), vlp(""), lp("a.bc")):                          "must not use port 53",
		stampOf("\x02", props, lp(""), vlp(""), lp("a.bc"), lp("/a b")):                 "encode it",
	} {
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", in, got, err, want)
		}
	}
}

// FuzzParse: what is accepted can be used, and its text stands for the same server.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"quad9", "https://quad9", "9.9.9.9", "192.0.2.1:8853,[2001:db8::1]:8853#dns.example", "tls://dns.example",
		"https://dns.example:8443/q{?dns}#192.0.2.1,2001:db8::1", "h3://[2001:db8::1]:8443/q", "auto://dns.example#fe80::1%eth0",
		"quic://192.0.2.1:1#a.b", stampOf("\x02", props, lp("9.9.9.9:5053"), vlp(strings.Repeat("a", 32)), lp("dns.quad9.net"), lp("/x")),
		stampOf("\x04", props, lp(""), vlp(""), lp("dns.example")),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		servers, err := Parse(s)
		if err != nil {
			return
		}
		for _, srv := range servers {
			text := srv.String()
			again, err := Parse(text)
			if err != nil || len(again) != 1 || again[0].String() != text {
				t.Fatalf("%q is %s, which is parsed as %v, %v", s, text, again, err)
			}
			b := again[0]
			if b.Protocol != srv.Protocol || !slices.Equal(b.Addrs(), srv.Addrs()) || b.Name != srv.Name || b.Path != srv.Path {
				t.Fatalf("%q is %+v, its text %s is %+v", s, srv, text, b)
			}
			if srv.Name == "" && !srv.HasAddr() || slices.Contains(srv.CertHashes, transport.Pin{}) && !strings.HasPrefix(strings.ToLower(s), "sdns:") {
				t.Fatalf("%q is %+v", s, srv)
			}
		}
	})
}
