// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"sotto/intercept/cgroup"
)

// A relay of user-mode networking (slirp4netns, pasta) forwards the packets of a container with
// sockets of its own, often from another cgroup. The hooks let it send to the virtual addresses
// of workloads of the same user or service: both are below one cgroup of the map subtrees.

// findSubtrees adds the cgroups of users and services that exist. Those of later ones are added
// when their first workload arrives. All processes of a command belong together (one_command).
func (i *Instance) findSubtrees() error {
	if i.cfg.Ephemeral {
		return nil
	}
	dirs, err := cgroup.Subtrees(i.paths.Root())
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		id, err := cgroup.ID(dir)
		if err != nil {
			continue // removed meanwhile
		}
		if err := i.addSubtree(cgroup.Group{Path: dir, ID: id}); err != nil {
			return err
		}
	}
	return nil
}

// addSubtreeOf adds the cgroup of the user or service to which a workload belongs.
func (i *Instance) addSubtreeOf(workload string) error {
	path := cgroup.SubtreeOf(workload)
	if path == "" || i.cfg.Ephemeral {
		return nil
	}
	dir := filepath.Join(i.paths.Root(), path)
	id, err := cgroup.ID(dir)
	if err != nil {
		return nil // removed meanwhile
	}
	return i.addSubtree(cgroup.Group{Path: dir, ID: id})
}

func (i *Instance) addSubtree(g cgroup.Group) error {
	level, err := g.Level(i.paths.Root())
	if err != nil || level == 0 || level >= cgroup.MaxLevels {
		return err
	}
	if err := i.kernel.Subtrees.Put(g.ID, uint32(level)); err != nil {
		return fmt.Errorf("add cgroup %s of a user or service: %w", g.Path, err)
	}
	return nil
}

// pruneSubtrees forgets removed cgroups.
func (i *Instance) pruneSubtrees() error {
	var removed []uint64
	var id uint64
	var level uint32
	it := i.kernel.Subtrees.Iterate()
	for it.Next(&id, &level) {
		if i.paths.Removed(id) {
			removed = append(removed, id)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list the cgroups of users and services: %w", err)
	}
	var errs []error
	for _, id := range removed {
		if err := i.kernel.Subtrees.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("forget cgroup %d: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
