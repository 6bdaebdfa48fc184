// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"
	"slices"
	"testing"
)

func TestParseNameservers(t *testing.T) {
	got := ParseNameservers("# nameserver 1.1.1.1\nnameserver 127.0.0.53\noptions edns0\n nameserver\tfe80::1%eth0 \nnameserver x\nnameserver")
	want := []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("fe80::1%eth0")}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
