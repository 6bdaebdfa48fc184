// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"strings"
	"testing"
)

// TestPresets: each preset has two servers with both address families (one service has one
// server), the DoT port, and a name that can be in a certificate. No address belongs to two
// servers of one preset. The names of presets are lower case.
func TestPresets(t *testing.T) {
	one := map[string]bool{"digitalcourage": true}
	if len(Presets()) != len(presets) || len(presets) < 15 {
		t.Errorf("%d names of %d presets", len(Presets()), len(presets))
	}
	for _, name := range Presets() {
		servers, err := ParseServer(strings.ToUpper(name))
		if err != nil {
			t.Fatal(err)
		}
		if want := 2; len(servers) != want && !one[name] {
			t.Errorf("%s: %d servers, want %d", name, len(servers), want)
		}
		if checkName(name) != nil || name != strings.ToLower(name) {
			t.Errorf("%q is not a valid name", name)
		}
		seen := make(map[netip.Addr]bool)
		for i, s := range servers {
			if s.Name == "" || checkName(s.Name) != nil || !strings.Contains(s.Name, ".") || s.Name != servers[0].Name {
				t.Errorf("%s: %s", name, s)
			}
			if s.String() == presets[name][i] {
				t.Errorf("%s: %s has a port, although 853 is the default", name, s)
			}
			families := [2]int{}
			for _, a := range s.Addrs() {
				if a.Port() != DefaultPort || seen[a.Addr()] || !a.Addr().IsGlobalUnicast() || a.Addr().IsPrivate() {
					t.Errorf("%s: %s", name, a)
				}
				seen[a.Addr()] = true
				if a.Addr().Is6() {
					families[0]++
				} else {
					families[1]++
				}
			}
			if families != [2]int{1, 1} {
				t.Errorf("%s: %d IPv6 and %d IPv4 addresses in %s", name, families[0], families[1], s)
			}
		}
		if _, err := New(Config{Servers: servers}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPresetsShareNoAddress: no address is in two presets, because then one of them would
// not be what its name says. (Control D distinguishes variants by name, and has one preset.)
func TestPresetsShareNoAddress(t *testing.T) {
	of := make(map[netip.AddrPort]string)
	for _, name := range Presets() {
		servers, err := ParseServer(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			for _, a := range s.Addrs() {
				if other := of[a]; other != "" {
					t.Errorf("%s is in %s and in %s", a, other, name)
				}
				of[a] = name
			}
		}
	}
}
