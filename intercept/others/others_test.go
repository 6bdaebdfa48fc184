// SPDX-License-Identifier: Apache-2.0

package others_test

import (
	"os/exec"
	"slices"
	"testing"

	"sotto/intercept/others"
	"sotto/intercept/others/otherstest"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// TestPrograms checks that programs on a cgroup, above it and below it are found, but not
// Sotto's, and not those of another cgroup.
func TestPrograms(t *testing.T) {
	l := labtest.New(t)
	root, err := netlab.CgroupRoot()
	if err != nil {
		labtest.Skip(t, "needs cgroup2 mounted")
	}
	make := func(parent *netlab.Cgroup, name string) *netlab.Cgroup {
		g, err := l.Cgroup(name)
		if parent != nil {
			g, err = l.Below(parent, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	top := make(nil, "top")
	sealed, other := make(top, "sealed"), make(top, "other")
	below := make(sealed, "below")
	otherstest.Connect4(t, top.Path, "above")
	otherstest.Connect4(t, below.Path, "below")
	otherstest.Connect4(t, sealed.Path, "sotto_connect4")
	otherstest.Connect4(t, other.Path, "other")
	otherstest.Egress(t, sealed.Path, "sd_fw_egress")
	for _, c := range []struct {
		list func(root, dir string) ([]others.Program, error)
		want []string
	}{
		{others.AddressPrograms, []string{top.Path + " connect4 above", below.Path + " connect4 below"}},
		{others.PacketPrograms, []string{sealed.Path + " egress sd_fw_egress"}},
	} {
		found, err := c.list(root, sealed.Path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range found {
			got = append(got, p.Cgroup+" "+p.Hook+" "+p.Name)
			if p.ID == 0 {
				t.Errorf("%s has no ID", p.Name)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestChains(t *testing.T) {
	nft := labtest.NeedTool(t, "nft")
	host := labtest.Host(t, labtest.New(t), "host")
	read := func() (out []others.Chain) {
		t.Helper()
		if err := host.Do(func() (err error) { out, err = others.Chains(); return err }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := read(); len(got) > 0 {
		t.Errorf("without rules: %v", got)
	}
	const rules = `
		table inet a { chain in { type filter hook input priority 0; policy drop; }; chain pass { type filter hook output priority 0; tcp dport 1 accept; }; }
		table ip b { chain out { type filter hook output priority 0; udp dport 1 drop; }; chain forwarded { type filter hook forward priority 0; policy drop; }; }
		table ip6 c { chain more { }; chain out { type filter hook output priority 0; jump more; }; }
		table ip d { chain nat { type nat hook output priority 0; }; }
		table ip e { chain out { type filter hook output priority 0; tcp dport 1 reject; }; }`
	err := host.Do(func() error {
		out, err := exec.Command(nft, rules).CombinedOutput()
		if err != nil {
			t.Errorf("%s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []others.Chain{
		{Family: "inet", Table: "a", Name: "in", Input: true, PolicyDrop: true},
		{Family: "ip", Table: "b", Name: "out"}, {Family: "ip6", Table: "c", Name: "out"}, {Family: "ip", Table: "e", Name: "out"},
	}
	got := read()
	slices.SortFunc(got, func(a, b others.Chain) int { return int(a.Table[0]) - int(b.Table[0]) })
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
