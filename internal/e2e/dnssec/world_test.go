// SPDX-License-Identifier: Apache-2.0

package dnssec

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// world returns the zones below test.: those of these names, or all.
func world(names ...string) []*zone {
	var zones []*zone
	add := func(z zone) { z.name += ".test."; zones = append(zones, &z) }
	for _, a := range []struct{ short, alg string }{
		{"a5", "RSASHA1"}, {"a7", "NSEC3RSASHA1"}, {"a8", "RSASHA256"}, {"a10", "RSASHA512"}, {"a13", "ECDSAP256SHA256"},
		{"a14", "ECDSAP384SHA384"}, {"a15", "ED25519"}, {"a16", "ED448"},
	} {
		add(zone{name: a.short, alg: a.alg})
		if a.short == "a5" {
			continue
		}
		add(zone{name: a.short + "n", alg: a.alg, nsec3: "-"})
		add(zone{name: a.short + "o", alg: a.alg, nsec3: "aabbccdd", iter: 5, optOut: true})
	}
	add(zone{name: "l8", alg: "RSASHA256", tool: "ldns"})
	add(zone{name: "l13", alg: "ECDSAP256SHA256", tool: "ldns", nsec3: "abcd", iter: 1})
	add(zone{name: "l15", alg: "ED25519", tool: "ldns", nsec3: "-", optOut: true})
	add(zone{name: "k13", alg: "ecdsap256sha256", tool: "knot"})
	add(zone{name: "k15", alg: "ed25519", tool: "knot", nsec3: "-", iter: 3})
	add(zone{name: "k16", alg: "ed448", tool: "knot", nsec3: "-", optOut: true})

	add(zone{name: "plain"})
	add(zone{name: "island", alg: "ECDSAP256SHA256", ds: noDS})
	add(zone{name: "doubleksk", alg: "ECDSAP256SHA256", ksks: 2})
	add(zone{name: "oneds", alg: "ECDSAP256SHA256", ksks: 2, ds: func(_ *testing.T, ds []string) []string { return ds[:1] }})
	add(zone{name: "doublezsk", alg: "ECDSAP256SHA256", zsks: 2})
	add(zone{name: "onesig", alg: "ECDSAP256SHA256", zsks: 2, tamper: oneSignature})
	add(zone{name: "expired", alg: "ECDSAP256SHA256", inception: -60 * day, expiration: -30 * day})
	add(zone{name: "future", alg: "ECDSAP256SHA256", inception: 30 * day, expiration: 60 * day})
	add(zone{name: "wrongds", alg: "ECDSAP256SHA256", ds: changeDS(func(tag, alg, typ, _ string) string {
		return fmt.Sprint(tag, " ", alg, " ", typ, " ", strings.Repeat("2a", 32))
	})})
	add(zone{name: "wrongtag", alg: "ECDSAP256SHA256", ds: changeDS(func(_, alg, typ, digest string) string { return fmt.Sprint("4711 ", alg, " ", typ, " ", digest) })})
	add(zone{name: "sha384", alg: "ECDSAP256SHA256", tamper: dsOf(dns.SHA384)})
	add(zone{name: "sha1ds", alg: "ECDSAP256SHA256", tamper: dsOf(dns.SHA1)})
	add(zone{name: "stripped", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return covers(rr, 0) })})
	add(zone{name: "nokeysig", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return covers(rr, dns.TypeDNSKEY) })})
	add(zone{name: "noasig", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return covers(rr, dns.TypeA) })})
	add(zone{name: "nonsec", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC || covers(rr, dns.TypeNSEC) })})
	add(zone{name: "nonsecsig", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return covers(rr, dns.TypeNSEC) })})
	add(zone{name: "nokeys", alg: "ECDSAP256SHA256", tamper: without(func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeDNSKEY || covers(rr, dns.TypeDNSKEY) })})
	add(zone{name: "unsignedds", tamper: func(_ *testing.T, z *zone, records []dns.RR) []dns.RR {
		z.dsSet = []string{z.name + " IN DS 4711 13 2 " + strings.Repeat("2a", 32)}
		return records
	}})
	add(zone{name: "badasig", alg: "ECDSAP256SHA256", tamper: breakSignatures(dns.TypeA)})
	add(zone{name: "badkeysig", alg: "ECDSAP256SHA256", tamper: breakSignatures(dns.TypeDNSKEY)})
	add(zone{name: "badnsecsig", alg: "ECDSAP256SHA256", tamper: breakSignatures(dns.TypeNSEC)})
	add(zone{name: "badsoasig", alg: "ECDSAP256SHA256", tamper: breakSignatures(dns.TypeSOA)})
	add(zone{name: "badcnamesig", alg: "ED25519", tamper: breakSignatures(dns.TypeCNAME)})
	add(zone{name: "badnsec3sig", alg: "ECDSAP256SHA256", nsec3: "-", tamper: breakSignatures(dns.TypeNSEC3)})
	add(zone{name: "unknownalg", alg: "ECDSAP256SHA256", ds: changeDS(func(tag, _, typ, digest string) string { return fmt.Sprint(tag, " 200 ", typ, " ", digest) })})
	add(zone{name: "unknowndigest", alg: "ECDSAP256SHA256", ds: changeDS(func(tag, alg, _, digest string) string { return fmt.Sprint(tag, " ", alg, " 99 ", digest) })})
	add(zone{name: "someknown", alg: "ECDSAP256SHA256", ds: func(t *testing.T, ds []string) []string {
		return append(ds, changeDS(func(tag, _, typ, digest string) string { return fmt.Sprint(tag, " 200 ", typ, " ", digest) })(t, ds)...)
	}})
	add(zone{name: "iter150", alg: "ECDSAP256SHA256", nsec3: "aa", iter: 150})
	add(zone{name: "iter151", alg: "ECDSAP256SHA256", tool: "ldns", nsec3: "aa", iter: 151})
	add(zone{name: "iter600", alg: "ECDSAP256SHA256", tool: "ldns", nsec3: "aa", iter: 600})
	add(zone{name: "keytrap", alg: "ED25519", tamper: keyTrap(60, 0)})
	add(zone{name: "sigtrap", alg: "ED25519", tamper: keyTrap(0, 100)})
	add(zone{name: "keysigtrap", alg: "ED25519", tamper: keyTrap(60, 100)})
	if len(names) == 0 {
		return zones
	}
	return slices.DeleteFunc(zones, func(z *zone) bool { return !slices.Contains(names, strings.TrimSuffix(z.name, ".test.")) })
}

// oneSignature removes the signatures of one of two zone-signing keys, as in a rollover with the
// new key published before it signs.
func oneSignature(t *testing.T, z *zone, records []dns.RR) []dns.RR {
	tag := uint16(0)
	return without(func(rr dns.RR) bool {
		sig, ok := rr.(*dns.RRSIG)
		if !ok || sig.TypeCovered == dns.TypeDNSKEY {
			return false
		}
		if tag == 0 {
			tag = sig.KeyTag
		}
		return sig.KeyTag == tag
	})(t, z, records)
}

// dsOf makes DS records with another digest.
func dsOf(digest uint8) func(*testing.T, *zone, []dns.RR) []dns.RR {
	return func(_ *testing.T, z *zone, records []dns.RR) []dns.RR {
		z.dsSet = nil
		for _, rr := range records {
			if k, ok := rr.(*dns.DNSKEY); ok && k.Flags&dns.SEP != 0 {
				z.dsSet = append(z.dsSet, k.ToDS(digest).String())
			}
		}
		return records
	}
}

// keyTrap adds keys with the tag of the zone-signing key, and wrong signatures of every A record
// (CVE-2023-50387).
func keyTrap(keys, sigs int) func(*testing.T, *zone, []dns.RR) []dns.RR {
	return func(t *testing.T, z *zone, records []dns.RR) []dns.RR {
		var zsk *dns.DNSKEY
		for _, rr := range records {
			if k, ok := rr.(*dns.DNSKEY); ok && k.Flags&dns.SEP == 0 {
				zsk = k
			}
		}
		var out []dns.RR
		for _, rr := range records {
			if sigs > 0 && covers(rr, dns.TypeA) {
				for range sigs {
					wrong := dns.Copy(rr).(*dns.RRSIG)
					wrong.Signature = base64.StdEncoding.EncodeToString(random(64))
					out = append(out, wrong)
				}
			}
		}
		for range keys {
			out = append(out, sameTag(zsk))
		}
		return append(out, records...)
	}
}

// sameTag returns a key with the same tag, which nothing was signed with.
func sameTag(k *dns.DNSKEY) dns.RR {
	other := dns.Copy(k).(*dns.DNSKEY)
	public := random(32)
	for i := range 1 << 16 {
		public[0], public[1] = byte(i>>8), byte(i)
		other.PublicKey = base64.StdEncoding.EncodeToString(public)
		if other.KeyTag() == k.KeyTag() {
			return other
		}
	}
	return sameTag(k)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// build signs the zones, those below test. first. It returns them and the zones above, the root
// last.
func build(t *testing.T, dir string, servers int, zones []*zone) []*zone {
	t.Helper()
	start := time.Now()
	var delegations strings.Builder
	for i, z := range zones {
		z.server = i % servers
		z.sign(t, dir)
		fmt.Fprintf(&delegations, "%[1]s NS ns.%[1]s\nns.%[1]s A 127.0.0.%[2]d\n%[3]s\n", z.name, 2+z.server, strings.Join(z.dsSet, "\n"))
	}
	test := &zone{name: "test.", alg: "ECDSAP256SHA256", content: "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.2\n" + delegations.String()}
	test.sign(t, dir)
	root := &zone{name: ".", alg: "RSASHA256", content: "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns.root.\nns.root. A 127.0.0.2\n" +
		"test. NS ns.test.\nns.test. A 127.0.0.2\n" + strings.Join(test.dsSet, "\n") + "\n"}
	root.sign(t, dir)
	t.Logf("%d zones signed in %v", len(zones)+2, time.Since(start).Round(time.Second))
	return append(zones, test, root)
}
