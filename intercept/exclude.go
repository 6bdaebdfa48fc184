// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"sotto/intercept/cgroup"
	"sotto/intercept/pins"
	"sotto/intercept/registry"
)

// exclusion is the set of cgroups whose queries an instance lets through. Other processes
// change it, too, through its pins. All of them hold the registry's lock.
type exclusion struct {
	groups, settings *ebpf.Map
}

// openExclusion opens the exclusion of another instance. The caller closes it.
func openExclusion(dir string) (*exclusion, error) {
	groups, err := ebpf.LoadPinnedMap(pins.Map(dir, sottoMapExclude), nil)
	if err != nil {
		return nil, err
	}
	settings, err := ebpf.LoadPinnedMap(pins.Map(dir, sottoMapSettings), nil)
	if err != nil {
		return nil, errors.Join(err, groups.Close())
	}
	return &exclusion{groups, settings}, nil
}

func (e *exclusion) close() error { return errors.Join(e.groups.Close(), e.settings.Close()) }

// all returns the excluded cgroups with their levels.
func (e *exclusion) all() (map[uint64]uint32, error) {
	out := make(map[uint64]uint32)
	var id uint64
	var level uint32
	it := e.groups.Iterate()
	for it.Next(&id, &level) {
		out[id] = level
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list excluded cgroups: %w", err)
	}
	return out, nil
}

func (e *exclusion) add(root string, g cgroup.Group) error {
	level, err := g.Level(root)
	if err != nil {
		return err
	}
	all, err := e.all()
	if err != nil {
		return err
	}
	all[g.ID] = uint32(level)
	levels, err := levelsOf(all)
	if err == nil {
		err = e.groups.Put(g.ID, uint32(level))
	}
	if err != nil {
		return fmt.Errorf("exclude cgroup %s: %w", g.Path, err)
	}
	return e.setLevels(levels)
}

func (e *exclusion) addAll(root string, groups []cgroup.Group) error {
	var errs []error
	for _, g := range groups {
		errs = append(errs, e.add(root, g))
	}
	return errors.Join(errs...)
}

func (e *exclusion) remove(id uint64) error {
	if err := e.groups.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("include cgroup %d again: %w", id, err)
	}
	all, err := e.all()
	if err != nil {
		return err
	}
	levels, err := levelsOf(all)
	return errors.Join(err, e.setLevels(levels))
}

// levelsOf returns the levels of excluded cgroups: as many as are possible if there is an error.
func levelsOf(all map[uint64]uint32) (levels cgroup.Levels, err error) {
	for _, level := range all {
		err = errors.Join(err, levels.Add(level))
	}
	return levels, err
}

// setLevels writes the levels at which the programs search for excluded ancestors.
func (e *exclusion) setLevels(levels cgroup.Levels) error {
	var set sottoInstance
	if err := e.settings.Lookup(uint32(0), &set); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	set.ExcludeLevels = uint64(levels)
	if err := e.settings.Put(uint32(0), set); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// resetExclusions excludes exactly the configured cgroups, and those of commands that other
// instances seal.
func (i *Instance) resetExclusions() (err error) {
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	others, err := reg.Others(i.cfg.Name)
	if err != nil {
		return err
	}
	want, err := cgroup.Present(i.cfg.Exclude) // follow excludes the others when they are created
	if err != nil {
		return err
	}
	if !i.cfg.Ephemeral {
		for _, o := range others {
			if o.Ephemeral {
				want = append(want, o.Cgroups...)
			}
		}
	}
	e := i.exclusion()
	old, err := e.all()
	if err != nil {
		return err
	}
	for _, g := range want {
		delete(old, g.ID)
	}
	// The new ones are added first, so that those of running commands are always excluded,
	// unless both together are at too many levels.
	err = e.addAll(i.paths.Root(), want)
	for id := range old {
		err = errors.Join(err, e.remove(id))
	}
	if err != nil {
		err = e.addAll(i.paths.Root(), want)
	}
	return err
}

func (i *Instance) exclusion() *exclusion { return &exclusion{i.kernel.Exclude, i.kernel.Settings} }

// excludeFromOthers adds this instance's cgroups to the exclusions of all other running
// instances, or removes them. It is not an error if an instance is just starting or
// stopping.
func (i *Instance) excludeFromOthers(excluded bool) (err error) {
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	others, err := reg.Others(i.cfg.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range others {
		e, err := openExclusion(pins.Dir(o.BPFFS, o.Name))
		if err != nil {
			continue // it has no maps yet, and will read the record of this instance
		}
		for _, g := range i.groups {
			if excluded {
				errs = append(errs, e.add(i.paths.Root(), g))
			} else {
				errs = append(errs, e.remove(g.ID))
			}
		}
		errs = append(errs, e.close())
	}
	return errors.Join(errs...)
}

// pruneExclusions forgets removed cgroups: those of commands that were killed together with
// their instance.
func (i *Instance) pruneExclusions() (err error) {
	all, err := i.exclusion().all()
	if err != nil {
		return err
	}
	for id := range all {
		if !i.paths.Removed(id) {
			delete(all, id)
		}
	}
	if len(all) == 0 {
		return nil
	}
	reg, err := registry.Open(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	var errs []error
	for id := range all {
		errs = append(errs, i.exclusion().remove(id))
	}
	return errors.Join(errs...)
}
