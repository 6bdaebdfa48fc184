// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"sotto/forwarder/dnssec/record"
)

// vectors are the examples of RFC 5702 (8 and 10), RFC 6605 (13 and 14) and RFC 8080 (15 and 16).
var vectors = map[string]string{
	"Ed25519": `example.com. 3600 IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=
example.com. 3600 IN DS 3613 15 2 3aa5ab37efce57f737fc1627013fee07bdf241bd10f3b1964ab55c78e79a304b
example.com. 3600 IN MX 10 mail.example.com.
example.com. 3600 IN RRSIG MX 15 2 3600 1440021600 1438207200 3613 example.com. oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngwcrqNAg==`,
	"Ed448": `example.com. 3600 IN DNSKEY 257 3 16 3kgROaDjrh0H2iuixWBrc8g2EpBBLCdGzHmn+G2MpTPhpj/OiBVHHSfPodx1FYYUcJKm1MDpJtIA
example.com. 3600 IN DS 9713 16 2 6ccf18d5bc5d7fc2fceb1d59d17321402f2aa8d368048db93dd811f5cb2b19c7
example.com. 3600 IN MX 10 mail.example.com.
example.com. 3600 IN RRSIG MX 16 2 3600 1440021600 1438207200 9713 example.com. 3cPAHkmlnxcDHMyg7vFC34l0blBhuG1qpwLmjInI8w1CMB29FkEAIJUA0amxWndkmnBZ6SKiwZSAxGILn/NBtOXft0+Gj7FSvOKxE/07+4RQvE581N3Aj/JtIyaiYVdnYtyMWbSNyGEY2213WKsJlwEA`,
	"ECDSA P-256": `example.net. 3600 IN DNSKEY 257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==
example.net. 3600 IN DS 55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17
www.example.net. 3600 IN A 192.0.2.1
www.example.net. 3600 IN RRSIG A 13 3 3600 20100909100439 20100812100439 55648 example.net. qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw==`,
	"ECDSA P-384": `example.net. 3600 IN DNSKEY 257 3 14 xKYaNhWdGOfJ+nPrL8/arkwf2EY3MDJ+SErKivBVSum1w/egsXvSADtNJhyem5RCOpgQ6K8X1DRSEkrbYQ+OB+v8/uX45NBwY8rp65F6Glur8I/mlVNgF6W/qTI37m40
example.net. 3600 IN DS 10771 14 4 72d7b62976ce06438e9c0bf319013cf801f09ecc84b8d7e9495f27e305c6a9b0563a9b5f4d288405c3008a946df983d6
www.example.net. 3600 IN A 192.0.2.1
www.example.net. 3600 IN RRSIG A 14 3 3600 20100909102025 20100812102025 10771 example.net. /L5hDKIvGDyI1fcARX3z65qrmPsVz73QD1Mr5CEqOiLP95hxQouuroGCeZOvzFaxsT8Glr74hbavRKayJNuydCuzWTSSPdz7wnqXL5bdcJzusdnI0RSMROxxwGipWcJm`,
}

// parse returns a key, its digest, and an RRset with its signature.
func parse(t *testing.T, text string) (key record.DNSKEY, ds record.DS, owner record.Name, set *record.Set) {
	t.Helper()
	m := new(dns.Msg)
	var k *dns.DNSKEY
	for line := range strings.Lines(text) {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		switch rr := rr.(type) {
		case *dns.DNSKEY:
			k = rr
		case *dns.DS:
			digest, err := hex.DecodeString(rr.Digest)
			if err != nil {
				t.Fatal(err)
			}
			ds = record.DS{Tag: rr.KeyTag, Algorithm: rr.Algorithm, Type: rr.DigestType, Digest: digest}
		default:
			m.Answer = append(m.Answer, rr)
		}
	}
	m.SetQuestion(k.Hdr.Name, dns.TypeDNSKEY)
	m.Extra = []dns.RR{k}
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := record.Parse(raw)
	if err != nil || len(parsed.Sets) != 2 {
		t.Fatalf("%v, %v", parsed, err)
	}
	return record.DNSKEY(parsed.Sets[1].Data[0]), ds, parsed.Name, parsed.Sets[0]
}

// TestVectors: the examples of the RFCs verify, and not after any change.
func TestVectors(t *testing.T) {
	for name, text := range vectors {
		raw, ds, zone, set := parse(t, text)
		key, ok := NewKey(raw, false)
		if !ok || key.Tag != ds.Tag || !Matches(ds, zone, raw) {
			t.Errorf("%s: key %v %d: want tag %d and the digest", name, ok, key.Tag, ds.Tag)
			continue
		}
		sig := set.Sigs[0]
		data, ok := set.AppendSigned(nil, &sig)
		if !ok || !key.Verify(data, sig.Signature) {
			t.Errorf("%s: the signature does not verify", name)
		}
		for i := 0; i < len(data); i += 7 {
			data[i] ^= 1
			if key.Verify(data, sig.Signature) {
				t.Errorf("%s: it verifies with byte %d changed", name, i)
			}
			data[i] ^= 1
		}
		if key.Verify(data, sig.Signature[1:]) || key.Verify(data, nil) || key.Verify(data, append(sig.Signature, 0)) {
			t.Errorf("%s: a signature of another length verifies", name)
		}
		other := ds
		other.Digest = append([]byte{ds.Digest[0] ^ 1}, ds.Digest[1:]...)
		if Matches(other, zone, raw) || Matches(record.DS{Type: 2}, zone, raw) || Matches(ds, "\x03com\x00", raw) {
			t.Errorf("%s: another digest matches", name)
		}
	}
}

// TestKeys: keys that must not be used are refused.
func TestKeys(t *testing.T) {
	good, _, _, _ := parse(t, vectors["Ed25519"])
	change := func(f func(k record.DNSKEY) record.DNSKEY) record.DNSKEY {
		return f(append(record.DNSKEY(nil), good...))
	}
	rsa := func(bits int, exponent ...byte) record.DNSKEY {
		k := append(record.DNSKEY{1, 1, 3, RSASHA256, byte(len(exponent))}, exponent...)
		modulus := make([]byte, bits/8)
		modulus[0], modulus[len(modulus)-1] = 0xFF, 1
		return append(k, modulus...)
	}
	for name, tc := range map[string]struct {
		key  record.DNSKEY
		want bool
	}{
		"good":                {good, true},
		"not of a zone":       {change(func(k record.DNSKEY) record.DNSKEY { k[0] = 0; return k }), false},
		"revoked":             {change(func(k record.DNSKEY) record.DNSKEY { k[1] |= 0x80; return k }), false},
		"another protocol":    {change(func(k record.DNSKEY) record.DNSKEY { k[2] = 2; return k }), false},
		"unknown algorithm":   {change(func(k record.DNSKEY) record.DNSKEY { k[3] = 200; return k }), false},
		"short":               {good[:20], false},
		"empty":               {good[:4], false},
		"P-256 off the curve": {append(record.DNSKEY{1, 1, 3, ECDSAP256SHA256}, make([]byte, 64)...), false},
		"RSA 2048":            {rsa(2048, 1, 0, 1), true},
		"RSA 512":             {rsa(512, 1, 0, 1), false},
		"RSA 8192":            {rsa(8192, 1, 0, 1), false},
		"RSA exponent 1":      {rsa(2048, 1), false},
		"RSA large exponent":  {rsa(2048, 1, 0, 0, 0, 1), false},
		"RSA without modulus": {record.DNSKEY{1, 1, 3, RSASHA256, 3, 1, 0, 1}, false},
	} {
		if _, ok := NewKey(tc.key, false); ok != tc.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	sha1 := rsa(2048, 1, 0, 1)
	sha1[3] = RSASHA1
	if _, ok := NewKey(sha1, false); ok {
		t.Error("SHA-1 is accepted although it is not allowed")
	}
	if _, ok := NewKey(sha1, true); !ok {
		t.Error("SHA-1 is not accepted although it is allowed")
	}
}

// TestCache: results are found again, by key, data and signature.
func TestCache(t *testing.T) {
	raw, _, _, _ := parse(t, vectors["Ed25519"])
	key, _ := NewKey(raw, false)
	c := NewCache()
	sum, _, found := c.Lookup(&key, []byte("data"), []byte("signature"))
	if found {
		t.Fatal("found in an empty cache")
	}
	c.Store(sum, true)
	if _, valid, found := c.Lookup(&key, []byte("data"), []byte("signature")); !found || !valid {
		t.Error("not found again")
	}
	if _, _, found := c.Lookup(&key, []byte("edata"), []byte("signatur")); found {
		t.Error("another division of the same bytes was found")
	}
}
