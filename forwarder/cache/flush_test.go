// SPDX-License-Identifier: Apache-2.0

package cache

import "testing"

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
