// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"slices"
	"strings"
	"testing"

	"sotto/forwarder/wire"
)

func TestIsWithin(t *testing.T) {
	for _, tc := range []struct {
		name, zone string
		want       bool
	}{
		{"\x01a\x07example\x00", "\x07example\x00", true},
		{"\x07example\x00", "\x07example\x00", true},
		{"\x07example\x00", "\x01a\x07example\x00", false},
		{"\x02xa\x07example\x00", "\x01a\x07example\x00", false},
		{"\x01a\x00", "\x00", true},
		{"\x00", "\x00", true},
		{"\x00", "\x01a\x00", false},
		{"\x04a\x01bc\x00", "\x01b\x00", false},
	} {
		if got := isWithin([]byte(tc.name), []byte(tc.zone)); got != tc.want {
			t.Errorf("%q in %q: %v", tc.name, tc.zone, got)
		}
	}
}

// TestFlushScopes: answers are removed by the suffix of their key, and by a whole key.
func TestFlushScopes(t *testing.T) {
	c := newCache(t, Config{})
	q, r := exchange(t, "www.example.", 0, "www.example. 60 IN A 192.0.2.1", "")
	key := func(scope string) []byte { return append(wire.AppendKey(nil, &q), scope...) }
	scopes := []string{"", "work", "work+1~", "+1~"}
	for _, scope := range scopes {
		c.Put(key(scope), &r, t0)
	}
	var a Answer
	left := func() (list []string) {
		for _, scope := range scopes {
			if c.Peek(key(scope), t0, &a) != Miss {
				list = append(list, scope)
			}
		}
		return list
	}
	n := c.FlushScopes(func(scope string) bool { return strings.HasSuffix(scope, "~") })
	if got := left(); n != 2 || !slices.Equal(got, []string{"", "work"}) {
		t.Errorf("%d answers were removed, left: %q", n, got)
	}
	c.Remove(key("work"))
	c.Remove(key("other"))
	if got := left(); !slices.Equal(got, []string{""}) {
		t.Errorf("left: %q", got)
	}
}
