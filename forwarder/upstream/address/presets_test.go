// SPDX-License-Identifier: Apache-2.0

package address

import (
	"net/netip"
	"strings"
	"testing"

	"sotto/forwarder/upstream/transport"
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
		servers, err := Parse(strings.ToUpper(name))
		if err != nil {
			t.Fatal(err)
		}
		if want := 2; len(servers) != want && !one[name] {
			t.Errorf("%s: %d servers, want %d", name, len(servers), want)
		}
		if CheckName(name) != nil || name != strings.ToLower(name) {
			t.Errorf("%q is not a valid name", name)
		}
		seen := make(map[netip.Addr]bool)
		for _, s := range servers {
			if s.Name == "" || CheckName(s.Name) != nil || !strings.Contains(s.Name, ".") || s.Name != servers[0].Name {
				t.Errorf("%s: %s", name, s)
			}
			families := [2]int{}
			for _, a := range s.Addrs() {
				if a.Port() != transport.DoT.Port() || seen[a.Addr()] || !a.Addr().IsGlobalUnicast() || a.Addr().IsPrivate() {
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
	}
}

// TestPresetsShareNoAddress: no address is in two presets, because then one of them would
// not be what its name says. (Control D distinguishes variants by name, and has one preset.)
func TestPresetsShareNoAddress(t *testing.T) {
	of := make(map[netip.AddrPort]string)
	for _, name := range Presets() {
		servers, err := Parse(name)
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

// TestPresetProtocols: a service has the same addresses for each protocol that it documents,
// with the protocol's port, and an error names the documented ones.
func TestPresetProtocols(t *testing.T) {
	for name, p := range presets {
		tls, err := Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, protocol := range []transport.Protocol{transport.DoT, transport.DoH, transport.DoH3, transport.DoQ} {
			text := protocol.Scheme() + "://" + strings.ToUpper(name)
			servers, err := Parse(text)
			if p.endpoint(protocol) == "" {
				if err == nil || !strings.Contains(err.Error(), name+" documents no "+protocol.String()+": write tls://"+name) {
					t.Errorf("%s: %v, %v", text, servers, err)
				}
				continue
			}
			if err != nil || len(servers) != len(tls) {
				t.Fatalf("%s: %v, %v", text, servers, err)
			}
			for i, s := range servers {
				if s.Protocol != protocol || s.Addr.Addr() != tls[i].Addr.Addr() || len(s.Also) != len(tls[i].Also) ||
					s.Addr.Port() != protocol.Port() || (s.Path != "") != protocol.HasPath() {
					t.Errorf("%s: %s", text, s)
				}
			}
		}
		if _, err := Parse("auto://" + name); err == nil || !strings.Contains(err.Error(), "write auto://"+tls[0].Name+"#") {
			t.Errorf("auto://%s: %v", name, err)
		}
	}
}
