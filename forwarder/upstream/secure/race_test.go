// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sotto/forwarder/upstream/transport"
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

// TestMostSpecific: an error of the family that the machine or the configuration lacks does not
// hide that of the other one.
func TestMostSpecific(t *testing.T) {
	refused, untrusted := error(syscall.ECONNREFUSED), errors.New("untrusted")
	family, route, address := error(syscall.EAFNOSUPPORT), error(syscall.ENETUNREACH), error(syscall.EADDRNOTAVAIL)
	for _, tc := range []struct {
		errs []error
		want error
	}{
		{[]error{family}, family},
		{[]error{family, refused}, refused},
		{[]error{refused, family}, refused},
		{[]error{route, address, untrusted, refused}, untrusted},
		{[]error{family, route}, route},
		{[]error{route, family}, route},
		{[]error{family, address, route}, address},
		{[]error{syscall.EHOSTUNREACH, route}, syscall.EHOSTUNREACH},
		{[]error{family, family}, family},
	} {
		var errs []error
		for i, err := range tc.errs {
			errs = append(errs, &transport.AddrError{Err: fmt.Errorf("address %d: %w", i, err)})
		}
		if got := mostSpecific(errs); !errors.Is(got, tc.want) {
			t.Errorf("%v: %v, want %v", tc.errs, got, tc.want)
		}
	}
}
