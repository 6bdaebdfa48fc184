// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"sotto/intercept/cgroup"
)

// sharesPerSlot is how many cgroups are counted per slot. A cgroup that has held a slot is
// counted as long as it exists.
const sharesPerSlot = 4

// setShares configures the programs to share slots among the cgroups below the sealed ones;
// see bpf/shares.h.
func (k *kernel) setShares(spec *ebpf.CollectionSpec, sealed []cgroup.Group, root string) error {
	base, err := cgroup.CommonAncestor(sealed, root)
	if err != nil {
		return err
	}
	level, err := base.Level(root)
	if err != nil {
		return err
	}
	return errors.Join(
		spec.Variables[sottoVarShareBase].Set(base.ID),
		spec.Variables[sottoVarShareLevel].Set(uint32(level)),
	)
}

// watchArrivals looks up the path of each cgroup that gets its first slot, while the cgroup
// exists: a socket can outlive its cgroup, and still sends queries of that workload. It
// returns nil when ctx ends.
func (i *Instance) watchArrivals(ctx context.Context) error {
	r, err := ringbuf.NewReader(i.kernel.Arrivals)
	if err != nil {
		return fmt.Errorf("watch for new workloads: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() }) // ends a blocked read
	defer stop()
	for {
		record, err := r.Read()
		if errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch for new workloads: %w", err)
		}
		if len(record.RawSample) == 8 {
			path := i.paths.Find(binary.NativeEndian.Uint64(record.RawSample))
			if err := i.addSubtreeOf(path); err != nil {
				i.cfg.Log.Debug("cannot let relays of a user or service through", "err", err)
			}
		}
	}
}

// removedSuffix replaces the unknown part of the path of a removed cgroup.
const removedSuffix = "(removed)"

// Workload returns the path of a cgroup in the hierarchy, as /proc/PID/cgroup shows it. If
// the cgroup was removed before its path was looked up, known is false and path is that of
// its nearest known ancestor with "(removed)" appended.
func (i *Instance) Workload(cgroupID uint64) (path string, known bool) {
	if path = i.paths.Find(cgroupID); path != "" {
		return path, true
	}
	for id, level := i.kernel.parent(cgroupID), 0; id != 0 && level < cgroup.MaxLevels; level++ {
		if path := i.paths.Find(id); path != "" {
			return filepath.Join(path, removedSuffix), false
		}
		id = i.kernel.parent(id)
	}
	return "/" + removedSuffix, false
}

// Owner returns the path of the cgroup on whose behalf the client asked, if that is not the
// client's own: the container that owns the network namespace of a socket that its engine
// opened there. A first call for a client in another network namespace than the host's may take
// milliseconds; see spaces.Owners.
func (i *Instance) Owner(o Origin) (path string, ok bool) {
	if o.Netns == 0 {
		return "", false
	}
	return i.owners.Find(o.CgroupID, o.Netns)
}

// forgetRemoved forgets removed cgroups: excluded ones, and the shares and paths of those
// that hold no slot. A removed cgroup gets no new slots, so there is no race.
func (i *Instance) forgetRemoved() error {
	var errs []error
	var id uint64
	var share sottoShare
	var removed []uint64
	it := i.kernel.Shares.Iterate()
	for it.Next(&id, &share) {
		if id != 0 && share.Held == 0 && i.paths.Removed(min(id, ^id)) { // see ~ in bpf/shares.h
			removed = append(removed, id)
		}
	}
	// Entries that are added meanwhile may interrupt an iteration; the next one sees the rest.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		errs = append(errs, fmt.Errorf("list slots by cgroup: %w", err))
	}
	for _, id := range removed {
		if err := i.kernel.Shares.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget cgroup %d: %w", id, err))
		}
	}
	i.paths.Prune(i.kernel.holdsSlots)
	i.owners.Prune()
	return errors.Join(append(errs, i.pruneExclusions(), i.pruneSubtrees(), i.pruneHooks())...)
}

// holdsSlots reports whether a cgroup, or one below it, holds a slot.
func (k *kernel) holdsSlots(cgroupID uint64) bool {
	var share sottoShare
	return k.Shares.Lookup(cgroupID, &share) == nil && share.Held > 0
}

// parent returns the parent of a cgroup that has held a slot, or 0 if it is unknown.
func (k *kernel) parent(cgroupID uint64) uint64 {
	var share sottoShare
	if k.Shares.Lookup(cgroupID, &share) != nil {
		return 0
	}
	return share.Parent
}
