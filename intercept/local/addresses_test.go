// SPDX-License-Identifier: Apache-2.0

package local

import (
	"maps"
	"net/netip"
	"testing"

	"sotto/intercept/network"
)

func TestAddresses(t *testing.T) {
	addr := func(link int, p string) network.Address {
		return network.Address{Link: link, Prefix: netip.MustParsePrefix(p)}
	}
	const outer, bridge = 2, 3
	got := newAddresses([]network.Address{
		addr(outer, "192.0.2.10/24"), addr(outer, "2001:db8::10/64"), addr(outer, "fe80::1/64"),
		addr(bridge, "10.88.0.1/16"), addr(bridge, "fd88::1/64"), addr(bridge, "fe80::2/64"), addr(bridge, "10.99.0.1/32"),
	}, map[int]bool{bridge: true})
	for addr, want := range map[string]bool{"192.0.2.10": true, "192.0.2.11": false, "10.88.9.9": true, "::ffff:10.88.0.1": true, "fd88::7": true, "fe80::1": false} {
		if is := got.Contains(netip.MustParseAddr(addr)); is != want {
			t.Errorf("%s: %v", addr, is)
		}
	}
	want := make(map[key]uint32)
	for p, flags := range map[string]uint32{
		"192.0.2.10/32": flagOwn, "2001:db8::10/128": flagOwn,
		"10.88.0.1/32": flagOwn | flagInside, "10.88.0.0/16": flagInside,
		"fd88::1/128": flagOwn | flagInside, "fd88::/64": flagInside,
		"10.99.0.1/32": flagOwn | flagInside,
	} {
		want[keyOf(netip.MustParsePrefix(p))] = flags
	}
	if !maps.Equal(got.entries, want) {
		t.Errorf("got %v\nwant %v", got.entries, want)
	}
	if k := keyOf(netip.MustParsePrefix("10.88.0.0/16")); k.Bits != 112 || netip.AddrFrom16(k.Addr) != netip.MustParseAddr("::ffff:10.88.0.0") {
		t.Errorf("key %v: want a mapped address", k)
	}
}
