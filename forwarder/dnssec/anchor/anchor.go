// SPDX-License-Identifier: Apache-2.0

// Package anchor holds what DNSSEC validation starts from: trust anchors, the keys that are known
// without asking, and negative trust anchors (RFC 7646), the names below which nothing is
// validated. It is pure.
package anchor

import (
	"crypto/sha256"
	"encoding/hex"

	"sotto/forwarder/dnssec/record"
	"sotto/forwarder/dnssec/signature"
)

// Set is a set of trust anchors. It is not modified after it was built.
type Set struct {
	trusted  map[record.Name][]record.DS
	negative map[record.Name]bool
}

// rootKeys are the digests of the root zone's keys: KSK-2017 and KSK-2024
// (https://data.iana.org/root-anchors/root-anchors.xml).
var rootKeys = []struct {
	tag    uint16
	digest string
}{
	{20326, "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"},
	{38696, "683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16"},
}

// Root returns the trust anchors of the root zone.
func Root() *Set {
	s := NewSet()
	for _, k := range rootKeys {
		digest, err := hex.DecodeString(k.digest)
		if err != nil {
			panic(err) // a constant
		}
		s.AddDS(record.Root, record.DS{Tag: k.tag, Algorithm: signature.RSASHA256, Type: signature.DigestSHA256, Digest: digest})
	}
	return s
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{trusted: make(map[record.Name][]record.DS), negative: make(map[record.Name]bool)}
}

// AddDS adds the digest of a key of a zone.
func (s *Set) AddDS(zone record.Name, ds record.DS) { s.trusted[zone] = append(s.trusted[zone], ds) }

// AddKey adds a key of a zone.
func (s *Set) AddKey(zone record.Name, key record.DNSKEY) {
	sum := sha256.Sum256(append([]byte(zone), key...))
	s.AddDS(zone, record.DS{Tag: key.Tag(), Algorithm: key.Algorithm(), Type: signature.DigestSHA256, Digest: sum[:]})
}

// AddNegative adds a negative trust anchor.
func (s *Set) AddNegative(name record.Name) { s.negative[name] = true }

// Len returns the number of keys.
func (s *Set) Len() (n int) {
	for _, ds := range s.trusted {
		n += len(ds)
	}
	return n
}

// Digests returns the trust anchors of a zone.
func (s *Set) Digests(zone record.Name) []record.DS { return s.trusted[zone] }

// Closest returns the closest zone with a trust anchor that the name is within. It reports false
// if there is none, or if a negative trust anchor is closer or as close.
func (s *Set) Closest(name record.Name) (zone record.Name, ok bool) {
	for n := name; ; n = n.Parent() {
		if s.negative[n] {
			return "", false
		}
		if len(s.trusted[n]) > 0 {
			return n, true
		}
		if n == record.Root {
			return "", false
		}
	}
}
