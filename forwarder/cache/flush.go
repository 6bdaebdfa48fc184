// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
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
	for key, e := range c.data.All() {
		msg, _, _ := e.tail()
		if !isWithin(msg[wire.HeaderLen:e.qend-4], zone) {
			continue
		}
		if _, found := c.data.Invalidate(key); found {
			n++
		}
	}
	return n, nil
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
