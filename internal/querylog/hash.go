// SPDX-License-Identifier: Apache-2.0

package querylog

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"time"

	"sotto/forwarder/wire"
)

// hashLen is the number of bytes of a label's hash: with a billion different names a day, the
// chance that two of them have the same hash is 3 %.
const hashLen = 8

// hasher replaces names by hashes. Each label becomes the start of an HMAC-SHA-256 of the name
// from that label to the root, in lower case. Equal names thus have equal hashes, and names
// below one domain share the labels of that domain.
//
// The key is random, changes every day (UTC) and exists only in memory. Without it, a guess
// cannot be compared with a hash, and hashes of two days cannot be compared with each other.
type hasher struct {
	day int64 // since 1970; the key's
	mac hash.Hash
}

// name returns the hash of a name in wire form, in presentation form, at the time now.
func (h *hasher) name(wireName []byte, now time.Time) string {
	const day = 24 * 60 * 60
	// The clock, and the order of queries, may go back a little: no old key comes back.
	if today := now.Unix() / day; h.mac == nil || today > h.day {
		var key [sha256.Size]byte
		rand.Read(key[:]) //nolint:errcheck // never fails since Go 1.24
		h.day, h.mac = today, hmac.New(sha256.New, key[:])
	}
	var room [wire.MaxName]byte
	rest := append(room[:0], wireName...)
	for i, c := range rest {
		if 'A' <= c && c <= 'Z' { // not the length of a label, which is at most 63
			rest[i] = c + 'a' - 'A'
		}
	}
	var out, sum []byte
	for len(rest) > 0 && rest[0] != 0 {
		h.mac.Reset()
		h.mac.Write(rest)
		sum = h.mac.Sum(sum[:0])
		out = append(hex.AppendEncode(out, sum[:hashLen]), '.')
		rest = rest[min(len(rest), 1+int(rest[0])):]
	}
	if len(out) == 0 {
		return "."
	}
	return string(out)
}
