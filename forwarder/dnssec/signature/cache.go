// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"crypto/sha256"

	"sotto/forwarder/dnssec/bounded"
)

// cacheSize is half of the largest number of results. A result takes about 70 bytes.
const cacheSize = 8192

// Sum identifies a verification.
type Sum [sha256.Size]byte

// Cache remembers the results of verifications: at most 16,384, which take 1.2 MB. It is safe for
// concurrent use.
type Cache struct{ results *bounded.Map[Sum, bool] }

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{bounded.New[Sum, bool](cacheSize)} }

// Lookup returns the result of an earlier verification, and its key for [Cache.Store].
func (c *Cache) Lookup(k *Key, data, signature []byte) (sum Sum, valid, found bool) {
	h := sha256.New()
	h.Write(k.id[:])
	h.Write([]byte{byte(len(signature) >> 8), byte(len(signature))})
	h.Write(signature)
	h.Write(data)
	h.Sum(sum[:0])
	valid, found = c.results.Get(sum)
	return sum, valid, found
}

// Store records the result of a verification.
func (c *Cache) Store(sum Sum, valid bool) { c.results.Put(sum, valid) }
