// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"maps"
	"net/netip"
	"slices"

	"sotto/intercept/cgroup"
)

// Info describes an instance.
type Info struct {
	Cgroups, Exclude []string // directories
	Missing          []string // those of Cgroups that do not exist now
	Prefix4, Prefix6 netip.Prefix
	Guard            GuardMode
	LocalResolvers   LocalMode
	Attached         bool // queries are redirected
}

// Info returns the configuration that is in force.
func (i *Instance) Info() Info {
	i.mu.Lock()
	defer i.mu.Unlock()
	return Info{
		Cgroups: cgroup.Dirs(i.groups), Missing: slices.Sorted(maps.Keys(i.missing)), Exclude: i.cfg.Exclude, Prefix4: i.cfg.Prefix4, Prefix6: i.cfg.Prefix6,
		Guard: i.cfg.Guard, LocalResolvers: i.cfg.LocalResolvers, Attached: i.attached,
	}
}

// Slots returns how many virtual addresses of each prefix are in use, and how many there are.
func (i *Instance) Slots() (used, total int, err error) {
	err = i.kernel.eachSlot(func(s slotState) {
		if s.Used != 0 {
			used++
		}
	})
	return used, int(i.kernel.count), err
}
