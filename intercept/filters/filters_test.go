// SPDX-License-Identifier: Apache-2.0

package filters_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"sotto/intercept/filters"
	"sotto/intercept/filters/filterstest"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// TestChains checks which chains are found: those that may drop packets at a hook of the host.
func TestChains(t *testing.T) {
	nft := labtest.NeedTool(t, "nft")
	host := labtest.Host(t, labtest.New(t), "host")
	const rules = `
table inet a {
	chain last { ct state invalid reject; }
	chain next { goto last; }
	chain harmless { counter; }
	chain in { type filter hook input priority 0; policy accept; tcp dport 1 jump next; }
	chain out { type filter hook output priority 0; policy drop; }
	chain none { type filter hook output priority 5; policy accept; jump harmless; meta mark set 1; }
	chain pre { type filter hook prerouting priority 0; policy drop; }
}
table ip b {
	chain FORWARD { type filter hook forward priority 0; policy accept; iifname vmap { "x" : drop, "y" : accept }; }
	chain nat { type nat hook output priority 0; policy accept; ip daddr 192.0.2.1 drop; }
	chain route { type route hook output priority 0; policy accept; ip daddr 192.0.2.1 drop; }
}
table ip6 c { flags dormant; chain out { type filter hook output priority 0; policy drop; }; }
table netdev d { }
table bridge e { chain in { type filter hook input priority 0; policy drop; }; }`
	if out, err := host.Command(t.Context(), nil, nft, rules).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []filters.Chain
	err := host.Do(func() (err error) {
		got, err = filters.Chains()
		return err
	})
	want := []filters.Chain{
		{Family: "inet", Table: "a", Name: "out", Hook: filters.Output, PolicyDrop: true},
		{Family: "inet", Table: "a", Name: "in", Hook: filters.Input},
		{Family: "ip", Table: "b", Name: "FORWARD", Hook: filters.Forward},
		{Family: "ip", Table: "b", Name: "route", Hook: filters.Output},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

// TestCovers checks to which packets a chain applies.
func TestCovers(t *testing.T) {
	for family, want := range map[string][2]bool{"ip": {true, false}, "ip6": {false, true}, "inet": {true, true}} {
		c := filters.Chain{Family: family}
		if got := [2]bool{c.Covers(false), c.Covers(true)}; got != want {
			t.Errorf("%s: got %v, want %v", family, got, want)
		}
	}
}

// TestLegacy checks that a table of iptables-legacy is noticed.
func TestLegacy(t *testing.T) {
	lab := labtest.New(t)
	host := labtest.Host(t, lab, "host")
	for _, c := range []struct {
		command string
		v4, v6  bool
	}{{"", false, false}, {"iptables-legacy", true, false}, {"ip6tables-legacy", true, true}} {
		if c.command != "" {
			if out, err := host.Command(t.Context(), nil, labtest.NeedTool(t, c.command), "-P", "OUTPUT", "ACCEPT").CombinedOutput(); err != nil {
				t.Skipf("this kernel has no iptables-legacy: %s", out)
			}
		}
		err := host.Do(func() error {
			if v4, v6 := filters.Legacy(); v4 != c.v4 || v6 != c.v6 {
				t.Errorf("after %q: got %v, %v", c.command, v4, v6)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestPrograms checks that programs with systemd's names are found on their cgroup, and what
// they do to packets.
func TestPrograms(t *testing.T) {
	lab, host, _ := labtest.LAN(t)
	g, err := lab.Cgroup("unit")
	if err != nil {
		t.Fatal(err)
	}
	index := 0
	err = host.Do(func() error {
		link, err := net.InterfaceByName(netlab.HostIf)
		if err == nil {
			index = link.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := filterstest.AllowAddresses(g.Path, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"))
	if err != nil {
		t.Fatal(err)
	}
	defer addresses.Close()
	links, err := filterstest.AllowInterfaces(g.Path, index)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()

	found, err := filters.Programs(g.Path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, p := range found {
		seen[p.Name]++
		checkProgram(t, host, p, index)
	}
	for _, name := range []string{"sd_fw_egress", "sd_fw_ingress", "sd_restrictif_e", "sd_restrictif_i"} {
		if seen[name] != 1 {
			t.Errorf("found %v", seen)
		}
	}
}

// checkProgram checks what a program of TestPrograms drops; index is the allowed interface.
func checkProgram(t *testing.T, host *netlab.Host, p filters.Program, index int) {
	t.Helper()
	for _, c := range []struct {
		client, server string
		allowed        bool
	}{
		{"198.51.100.1", "192.0.2.9", true}, {"192.0.2.9", "198.51.100.1", false},
		{"fd00::1", "2001:db8::9", true}, {"2001:db8::9", "fd00::1", false},
	} {
		for _, link := range []int{index, 1} {
			src, dst := netip.AddrPortFrom(netip.MustParseAddr(c.client), 1024), netip.AddrPortFrom(netip.MustParseAddr(c.server), 53)
			if !p.Egress {
				src, dst = dst, src
			}
			want := !c.allowed
			if p.Setting == filters.Interfaces {
				want = link != index
			}
			var got bool
			err := host.Do(func() (err error) {
				got, err = p.Drops(filters.Datagram(src, dst), link)
				return err
			})
			if err != nil || got != want {
				t.Errorf("%s drops %v → %v on link %d: %v, %v, want %v", p.Name, src, dst, link, got, err, want)
			}
		}
	}
}
