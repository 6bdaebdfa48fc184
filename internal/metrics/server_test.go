// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net"
	"net/netip"
	"testing"
)

// TestShared: two sockets can have the same address if both share it, and only then.
func TestShared(t *testing.T) {
	listen := func(addr string, shared bool) (net.Listener, error) {
		l, err := Listen(t.Context(), netip.MustParseAddrPort(addr), shared)
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return l, err
	}
	for _, first := range []bool{true, false} {
		a, err := listen("127.0.0.1:0", first)
		if err != nil {
			t.Fatal(err)
		}
		for _, second := range []bool{false, true} {
			if _, err := listen(a.Addr().String(), second); (err == nil) != (first && second) {
				t.Errorf("shared: %t and %t: %v", first, second, err)
			}
		}
	}
}
