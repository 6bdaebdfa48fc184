// SPDX-License-Identifier: Apache-2.0

package others_test

import (
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
