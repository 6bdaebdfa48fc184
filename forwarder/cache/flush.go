// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"hash/maphash"
	"strings"

	"sotto/forwarder/wire"
)

// FlushName removes the answers for a name and for all names below it, of every type. The name
// is in presentation form; "" or "." removes everything. It returns the number of answers that
// were removed.
func (c *Cache) FlushName(name string) (n int, err error) {
	zone, err := wire.AppendParsed(nil, strings.ToLower(strings.TrimSuffix(name, "."))+".")
	if err != nil {
		return 0, err
	}
	return c.flush(func(e *entry) bool {
		msg, _, _ := e.tail()
		return isWithin(msg[wire.HeaderLen:e.qend-4], zone)
	}), nil
}

// FlushScopes removes the answers with a scope that match accepts, and returns their number. The
// scope is the caller's suffix of the key.
func (c *Cache) FlushScopes(match func(scope string) bool) (n int) {
	return c.flush(func(e *entry) bool {
		_, keyEnd, _ := e.tail()
		return len(keyEnd) > 0 && match(string(keyEnd[1:])) // the first byte is that of wire.AppendKey
	})
}

// flush removes the answers that match accepts, and returns their number.
func (c *Cache) flush(match func(*entry) bool) (n int) {
	for key, e := range c.data.All() {
		if !match(e) {
			continue
		}
		if _, found := c.data.Invalidate(key); found {
			n++
		}
	}
	return n
}

// Remove removes the answer stored under key, if there is one.
func (c *Cache) Remove(key []byte) {
	hash := maphash.Bytes(c.seed, key)
	if e, ok := c.data.GetEntryQuietly(hash); ok && e.Value.hasKey(key) {
		c.data.Invalidate(hash)
	}
}

// isWithin reports whether a name is zone or below it. Both are lower-case, in wire form.
func isWithin(name, zone []byte) bool {
	for {
		if bytes.Equal(name, zone) {
			return true
		}
		if len(name) <= len(zone) || name[0] == 0 {
			return false
		}
		name = name[1+int(name[0]):]
	}
}
