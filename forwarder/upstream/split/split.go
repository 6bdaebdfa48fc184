// SPDX-License-Identifier: Apache-2.0

// Package split distributes names over services, so that none sees all of them. All names of one
// registrable domain, such as example.co.uk, go to the same service. It is pure, and imports
// sotto/forwarder/wire alone.
//
// The distribution is that of rendezvous hashing: each service has a score for each domain, and the
// highest one wins. A service that is added receives its share from all others, and no other domain
// moves. The hash has a key, so that a service cannot know which domains others receive.
package split

import (
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/net/publicsuffix"

	"sotto/forwarder/wire"
)

// Key is the key of the hash. With another key, domains go to other services.
type Key [sha256.Size]byte

// Domain returns the hash of the domain that a name (in wire form) belongs to.
func (k *Key) Domain(name []byte) uint64 {
	var room [sha256.Size + 1 + wire.MaxName]byte
	b := append(append(room[:0], k[:]...), 'd')
	for _, c := range Domain(name) {
		b = append(b, wire.Lower(c))
	}
	return sum(b)
}

// Service returns the hash of a service, which its name identifies.
func (k *Key) Service(name string) uint64 {
	return sum(append(append(k[:len(k):len(k)], 's'), name...))
}

func sum(b []byte) uint64 {
	s := sha256.Sum256(b)
	return binary.BigEndian.Uint64(s[:])
}

// Score returns the score of a service for a domain, from their hashes.
func Score(domain, service uint64) uint64 {
	// The finalizer of SplitMix64: the inputs are random, and only their combination must not
	// depend on either of them alone.
	z := domain ^ service
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// Networks whose addresses belong together are of the size that one organisation usually has: /24
// and /48.
const (
	labels4 = 3 + 2  // of the name of an IPv4 network
	labels6 = 12 + 2 // of the name of an IPv6 network, one per four bits
)

// Domain returns the part of a name (in wire form) that decides where it goes: the registrable
// domain, or the whole name if that is itself a public suffix; of an address in in-addr.arpa or
// ip6.arpa its network. It aliases name.
func Domain(name []byte) []byte {
	var starts [128]uint8 // of the labels
	n := 0
	for off := 0; off < len(name) && name[off] != 0 && n < len(starts); off += 1 + int(name[off]) {
		starts[n] = uint8(off)
		n++
	}
	keep := n
	switch text := wire.Name(name); {
	case n > 2 && isBelow(name[starts[n-2]:], "\x07in-addr\x04arpa\x00"):
		keep = labels4
	case n > 2 && isBelow(name[starts[n-2]:], "\x03ip6\x04arpa\x00"):
		keep = labels6
	case n > 1:
		suffix, _ := publicsuffix.PublicSuffix(lower(text[:len(text)-1]))
		keep = 2
		for i := range len(suffix) {
			if suffix[i] == '.' {
				keep++
			}
		}
	}
	if keep >= n {
		return name
	}
	return name[starts[n-keep]:]
}

func isBelow(end []byte, want string) bool {
	if len(end) != len(want) {
		return false
	}
	for i, c := range end {
		if wire.Lower(c) != want[i] {
			return false
		}
	}
	return true
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = wire.Lower(c)
	}
	return string(b)
}
