// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"

	"sotto/bpf"
)

// sharesPerSlot is how many cgroups are counted for each slot: a cgroup's entry remains
// while the cgroup exists, whether it holds a slot or not.
const sharesPerSlot = 4

// setShares has the programs share slots among what is below the sealed cgroups; see
// bpf/shares.h.
func (k *kernel) setShares(spec *ebpf.CollectionSpec, cfg *Config, sealed []group, root string) error {
	base, err := commonAncestor(sealed, root)
	if err != nil {
		return err
	}
	level, err := base.level(root)
	if err != nil {
		return err
	}
	return errors.Join(
		spec.Variables[bpf.SottoVarShareBase].Set(base.ID),
		spec.Variables[bpf.SottoVarShareLevel].Set(uint32(level)),
	)
}

// commonAncestor returns the deepest cgroup that all the given ones are, or are below.
func commonAncestor(groups []group, root string) (group, error) {
	if len(groups) == 1 {
		return groups[0], nil
	}
	dir := groups[0].Path
	for _, g := range groups[1:] {
		for dir != root && g.Path != dir && !strings.HasPrefix(g.Path, dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	id, err := cgroupID(dir)
	return group{dir, id}, err
}

// forgetGone forgets cgroups that were removed: those excluded, and the shares and names of
// those that hold no slot any more. A cgroup that was removed takes no new slot, so nothing
// is counted meanwhile.
func (i *Instance) forgetGone() error {
	var errs []error
	var id uint64
	var share bpf.SottoShare
	var gone []uint64
	it := i.kernel.Shares.Iterate()
	for it.Next(&id, &share) {
		if id != 0 && share.Held == 0 && i.workloads.gone(min(id, ^id)) { // see ~ in bpf/shares.h
			gone = append(gone, id)
		}
	}
	// Entries made meanwhile may cut an iteration short; the next one sees them.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		errs = append(errs, fmt.Errorf("list slots by cgroup: %w", err))
	}
	for _, id := range gone {
		if err := i.kernel.Shares.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget cgroup %d: %w", id, err))
		}
	}
	i.workloads.prune(i.kernel.holdsSlots)
	return errors.Join(append(errs, i.pruneExclusion())...)
}

// holdsSlots reports whether a cgroup, or one below it, holds a slot.
func (k *kernel) holdsSlots(cgroup uint64) bool {
	var share bpf.SottoShare
	return k.Shares.Lookup(cgroup, &share) == nil && share.Held > 0
}

// parent returns the cgroup above one that holds a slot; 0 if it is not known.
func (k *kernel) parent(cgroup uint64) uint64 {
	var share bpf.SottoShare
	if k.Shares.Lookup(cgroup, &share) != nil {
		return 0
	}
	return share.Parent
}
