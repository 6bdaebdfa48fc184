// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNthAddr(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		i      uint32
		want   string
	}{
		{"198.19.0.0/16", 0, "198.19.0.0"},
		{"198.19.0.0/16", 7, "198.19.0.7"},
		{"198.19.0.0/16", 65535, "198.19.255.255"},
		{"198.18.4.0/22", 1023, "198.18.7.255"},
		{"198.18.255.0/24", 256, "198.19.0.0"},
		{"fd73:6f74:746f::/64", 1, "fd73:6f74:746f::1"},
		{"fd73:6f74:746f:9::/64", 0x12345, "fd73:6f74:746f:9::1:2345"},
	} {
		if got := NthAddr(netip.MustParsePrefix(tt.prefix), tt.i); got.String() != tt.want {
			t.Errorf("NthAddr(%s, %d) = %s, want %s", tt.prefix, tt.i, got, tt.want)
		}
	}
}

// All assignments are in the blocks and differ in prefixes and links.
func TestAssignmentsAreDisjoint(t *testing.T) {
	links := map[string]bool{"sotto0": true, "sotto1": true}
	prefixes := []netip.Prefix{DefaultPrefix4, DefaultPrefix6}
	for i := range MaxAssignments {
		a := NthAssignment(i)
		for _, end := range []string{"0", "1"} {
			if name := a.Link + end; links[name] || len(name) > 15 {
				t.Errorf("assignment %d: link %s is in use or too long", i, name)
			} else {
				links[name] = true
			}
		}
		for _, p := range []netip.Prefix{a.Prefix4, a.Prefix6} {
			if p != p.Masked() || !(block4.Contains(p.Addr()) || block6.Contains(p.Addr())) {
				t.Errorf("assignment %d: prefix %s is outside the blocks", i, p)
			}
			for _, q := range prefixes {
				if p.Overlaps(q) {
					t.Errorf("assignment %d: prefix %s overlaps %s", i, p, q)
				}
			}
			prefixes = append(prefixes, p)
		}
		if CheckPrefix("prefix4", a.Prefix4, true) != nil || CheckPrefix("prefix6", a.Prefix6, false) != nil {
			t.Errorf("assignment %d: prefixes %s, %s are refused", i, a.Prefix4, a.Prefix6)
		}
	}
	if a := NthAssignment(0); a.Name != "sotto-0" || a.Link != "sotto0" || a.Prefix4.String() != "198.18.0.0/22" ||
		a.Prefix6.String() != "fd73:6f74:746f:1::/64" {
		t.Errorf("assignment 0 is %+v", a)
	}
}

func TestCheckPrefix(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		is4    bool
		want   string // in the error; "" is none
	}{
		{"198.19.0.0/16", true, ""},
		{"10.0.0.0/24", true, ""},
		{"10.0.0.0/25", true, "/24 is the smallest"},
		{"10.0.0.1/16", true, "prefix4 10.0.0.1/16: not a network"},
		{"fd00::/64", true, "not a network"},
		{"::ffff:10.0.0.0/112", false, "not a network"},
		{"198.19.0.0/16", false, "write it like fd73"},
		{"fd00::/64", false, ""},
		{"fd00::/120", false, "/112 is the smallest"},
	} {
		name := "prefix6"
		if tt.is4 {
			name = "prefix4"
		}
		err := CheckPrefix(name, netip.MustParsePrefix(tt.prefix), tt.is4)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckPrefix(%s %s): %v, want %q", name, tt.prefix, err, tt.want)
		}
	}
	if err := CheckPrefix("prefix4", netip.Prefix{}, true); err == nil {
		t.Error("the zero prefix is accepted")
	}
}

func TestConflict(t *testing.T) {
	for _, tt := range []struct {
		prefix, route string
		isSotto, want bool
	}{
		{"198.19.0.0/16", "198.19.0.0/16", false, true},
		{"198.19.0.0/16", "198.19.7.0/24", false, true},
		{"198.19.0.0/16", "198.19.7.1/32", false, true},
		{"198.19.0.0/16", "198.18.0.0/15", false, false}, // larger
		{"198.19.0.0/16", "128.0.0.0/1", false, false},   // a VPN's default route
		{"198.19.0.0/16", "198.20.0.0/16", false, false}, // a neighbour
		{"198.18.0.0/22", "198.18.0.0/16", true, true},   // larger, but with the slots of another instance
		{"fd73:6f74:746f::/64", "fd73:6f74:746f::/64", false, true},
		{"fd73:6f74:746f::/64", "fd73:6f74:746f:1::/64", true, false},
	} {
		r := hostRoute{dst: netip.MustParsePrefix(tt.route), text: tt.route, isSotto: tt.isSotto}
		if _, got := conflict(netip.MustParsePrefix(tt.prefix), []hostRoute{r}); got != tt.want {
			t.Errorf("%s with the route %s (of Sotto: %v): conflict %v, want %v", tt.prefix, tt.route, tt.isSotto, got, tt.want)
		}
	}
}
