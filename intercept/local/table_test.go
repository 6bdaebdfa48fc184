// SPDX-License-Identifier: Apache-2.0

package local

import (
	"maps"
	"net/netip"
	"testing"

	"sotto/intercept/network"
)

func TestEntries(t *testing.T) {
	addr := func(link int, p string) network.Address {
		return network.Address{Link: link, Prefix: netip.MustParsePrefix(p)}
	}
	const outer, bridge = 2, 3
	got := entries([]network.Address{
		addr(outer, "192.0.2.10/24"), addr(outer, "2001:db8::10/64"), addr(outer, "fe80::1/64"),
		addr(bridge, "10.88.0.1/16"), addr(bridge, "fd88::1/64"), addr(bridge, "fe80::2/64"), addr(bridge, "10.99.0.1/32"),
	}, map[int]bool{bridge: true})
	want := make(map[key]uint32)
	for p, flags := range map[string]uint32{
		"192.0.2.10/32": flagOwn, "2001:db8::10/128": flagOwn,
		"10.88.0.1/32": flagOwn | flagInside, "10.88.0.0/16": flagInside,
		"fd88::1/128": flagOwn | flagInside, "fd88::/64": flagInside,
		"10.99.0.1/32": flagOwn | flagInside,
	} {
		want[keyOf(netip.MustParsePrefix(p))] = flags
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if k := keyOf(netip.MustParsePrefix("10.88.0.0/16")); k.Bits != 112 || netip.AddrFrom16(k.Addr) != netip.MustParseAddr("::ffff:10.88.0.0") {
		t.Errorf("key %v: want a mapped address", k)
	}
}
