// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sotto/intercept/cgroup"
	"sotto/intercept/registry"
)

// systemd removes the cgroup of a unit when the unit stops, and container engines that of a
// container; the next start makes another one at the same path. The kernel has removed the hooks
// with the old one. An instance therefore follows the paths of its cgroups.

// follow seals and excludes cgroups again that were removed and created again, until ctx ends.
// Then it returns nil. What the processes of a new cgroup send until it is sealed leaves in the
// clear: the kernel reports the cgroup when it exists already.
func (i *Instance) follow(ctx context.Context) error {
	root := i.paths.Root()
	followed := slices.DeleteFunc(append(cgroup.Dirs(i.sealedGroups()), i.cfg.Exclude...), func(dir string) bool { return dir == root })
	if i.cfg.Ephemeral || len(followed) == 0 {
		return nil
	}
	var failed string
	return cgroup.Watch(ctx, root, followed,
		func() {
			err := i.syncGroups()
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != "" && text != failed {
				i.cfg.Log.Error("cannot seal or exclude a cgroup that was created again; until that succeeds its queries are not treated as configured", "err", err)
			}
			failed = text
		},
		func(err error) {
			i.cfg.Log.Warn("cannot watch for new cgroups; one that is created again is sealed up to a second later: raise fs.inotify.max_user_instances", "err", err)
		})
}

func (i *Instance) sealedGroups() []cgroup.Group {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.groups)
}

// presentGroups returns those of the sealed cgroups that exist. i.mu is held.
func (i *Instance) presentGroups() []cgroup.Group {
	return slices.DeleteFunc(slices.Clone(i.groups), func(g cgroup.Group) bool { return !g.Exists() })
}

// isInForce reports whether this process seals the cgroups. i.mu is held.
func (i *Instance) isInForce() bool { return i.attached && !i.detached && !i.released && !i.closed }

// syncGroups compares the cgroups with their paths, and seals and excludes those that are new.
func (i *Instance) syncGroups() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isInForce() {
		return nil
	}
	return errors.Join(i.sealAgain(), i.excludeAgain())
}

// updateGroups sets the IDs of the sealed cgroups to those at their paths. It returns the cgroups
// that were created again, and logs those that were removed. i.mu is held.
func (i *Instance) updateGroups() (again []cgroup.Group) {
	groups := slices.Clone(i.groups)
	for n, g := range groups {
		id, err := cgroup.ID(g.Path)
		if gone := err != nil; gone != i.missing[g.Path] {
			i.setMissing(g.Path, gone)
		}
		if err == nil && id != g.ID {
			groups[n].ID = id
			again = append(again, groups[n])
		}
	}
	i.groups = groups
	return again
}

// sealPresent attaches the hooks to the sealed cgroups that exist. i.mu is held.
func (i *Instance) sealPresent() error {
	present := i.presentGroups()
	added := i.kernel.withoutHooks(present)
	if err := i.kernel.attach(present, i.paths, i.cfg.Guard != GuardOff); err != nil {
		return err
	}
	if i.cfg.Guard == GuardDrop && len(added) > 0 {
		i.destroyPlain(added)
	}
	return nil
}

// pruneHooks removes the hooks of removed cgroups whose last socket was closed.
func (i *Instance) pruneHooks() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isInForce() {
		return nil
	}
	return i.kernel.detachOthers(i.groups, i.paths, i.cfg.Guard != GuardOff)
}

// sealAgain seals the cgroups that were created again.
func (i *Instance) sealAgain() error {
	old := i.groups
	again := i.updateGroups()
	if len(again) == 0 {
		return nil
	}
	// The same order as in Attach.
	if err := errors.Join(i.guard.Seal(i.groups, i.paths.Root()), i.sealPresent()); err != nil {
		i.groups = old // the next call tries again
		return err
	}
	for _, g := range again {
		i.cfg.Log.Info("sealed a cgroup that was created again", "cgroup", g.Path)
	}
	return i.rewriteRecord()
}

// setMissing notes that a cgroup does not exist, or exists again. i.mu is held.
func (i *Instance) setMissing(path string, gone bool) {
	if !gone {
		delete(i.missing, path)
		return
	}
	if i.missing == nil {
		i.missing = make(map[string]bool)
	}
	i.missing[path] = true
	i.cfg.Log.Info("a sealed cgroup was removed; it is sealed again as soon as it is created again", "cgroup", path)
}

// excludeAgain excludes the configured cgroups that are not excluded, because they are new.
func (i *Instance) excludeAgain() (err error) {
	want, err := cgroup.Present(i.cfg.Exclude)
	if err != nil || len(want) == 0 {
		return err
	}
	all, err := i.exclusion().all()
	if err != nil {
		return err
	}
	want = slices.DeleteFunc(want, func(g cgroup.Group) bool { _, ok := all[g.ID]; return ok })
	if len(want) == 0 {
		return nil
	}
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	if err := i.exclusion().addAll(i.paths.Root(), want); err != nil {
		return err
	}
	for _, g := range want {
		i.cfg.Log.Info("excluded a cgroup that was created", "cgroup", g.Path)
	}
	return nil
}

// rewriteRecord records the IDs of the cgroups as they are now. i.mu is held.
func (i *Instance) rewriteRecord() (err error) {
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	rec := newRecord(&i.cfg, i.groups)
	rec.Earlier = i.earlier
	if err := registry.Write(i.file, rec); err != nil {
		return fmt.Errorf("record instance %s: %w", i.cfg.Name, err)
	}
	return nil
}
