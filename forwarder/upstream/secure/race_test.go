// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRaceOrder(t *testing.T) {
	for _, tc := range []struct{ addrs, best, want string }{
		{"a4", "", "a4"},
		{"a4 a6", "", "a6 a4"},
		{"a6 a4", "", "a6 a4"},
		{"a4 b4 a6 b6", "", "a6 a4 b6 b4"},
		{"a4 b4 c4 a6", "", "a6 a4 b4 c4"},
		{"a4 b4", "", "a4 b4"},
		{"a4 a6", "a4", "a4 a6"},
		{"a4 b4 a6 b6", "b4", "b4 a6 a4 b6"},
		{"a4 b4 a6 b6", "b6", "b6 a4 a6 b4"},
		{"a4 a6", "c4", "a6 a4"}, // no longer one of them
	} {
		var addrs []netip.AddrPort
		name := make(map[netip.AddrPort]string)
		parse := func(s string) netip.AddrPort {
			a := netip.MustParseAddrPort(map[byte]string{'4': "192.0.2.1", '6': "[2001:db8::1]"}[s[1]] + ":" + string('1'+s[0]-'a'))
			name[a] = s
			return a
		}
		for f := range strings.FieldsSeq(tc.addrs) {
			addrs = append(addrs, parse(f))
		}
		var best netip.AddrPort
		if tc.best != "" {
			best = parse(tc.best)
		}
		var got []string
		for _, a := range raceOrder(slices.Clone(addrs), best) {
			got = append(got, name[a])
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s, best %q: %s, want %s", tc.addrs, tc.best, s, tc.want)
		}
	}
}
