// SPDX-License-Identifier: Apache-2.0

package attached_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"sotto/intercept/attached"
	"sotto/intercept/others/otherstest"
	"sotto/internal/netlab"
	"sotto/internal/netlab/labtest"
)

// TestPrograms checks that the programs on one cgroup are found, by hook, but not Sotto's and not
// those of the cgroups above and below it.
func TestPrograms(t *testing.T) {
	l := labtest.New(t)
	if _, err := netlab.CgroupRoot(); err != nil {
		labtest.Skip(t, "needs cgroup2 mounted")
	}
	above, err := l.Cgroup("above")
	if err != nil {
		t.Fatal(err)
	}
	group, err := l.Below(above, "group")
	if err != nil {
		t.Fatal(err)
	}
	below, err := l.Below(group, "below")
	if err != nil {
		t.Fatal(err)
	}
	otherstest.Connect4(t, above.Path, "above")
	otherstest.Connect4(t, below.Path, "below")
	otherstest.Connect4(t, group.Path, "connect")
	otherstest.Connect4(t, group.Path, "sotto_connect4")
	otherstest.Egress(t, group.Path, "sd_fw_egress")
	for _, c := range []struct {
		hooks []ebpf.AttachType
		want  []string
	}{
		{nil, nil},
		{[]ebpf.AttachType{ebpf.AttachCGroupInet4Connect}, []string{"CGroupInet4Connect connect"}},
		{[]ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInet4Connect}, []string{"CGroupInetEgress sd_fw_egress", "CGroupInet4Connect connect"}},
	} {
		found, err := attached.Programs(group.Path, c.hooks...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range found {
			got = append(got, fmt.Sprintf("%v %s", p.Hook, p.Name))
			if p.ID == 0 {
				t.Errorf("%s has no ID", p.Name)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.hooks, got, c.want)
		}
	}
	if _, err := attached.Programs(filepath.Join(group.Path, "missing"), ebpf.AttachCGroupInetEgress); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a cgroup that does not exist: %v", err)
	}
}
