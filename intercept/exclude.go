// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"sotto/bpf"
)

// maxLevel is MAX_LEVELS in bpf/settings.h.
const maxLevel = 32

// exclusion is the set of cgroups that an instance lets through. Other processes
// change it too, by its pins: all do so holding the registry.
type exclusion struct {
	groups, settings *ebpf.Map
}

// openExclusion opens that of another instance. The caller closes it.
func openExclusion(dir string) (*exclusion, error) {
	groups, err := ebpf.LoadPinnedMap(mapPin(dir, bpf.SottoMapExclude), nil)
	if err != nil {
		return nil, err
	}
	settings, err := ebpf.LoadPinnedMap(mapPin(dir, bpf.SottoMapSettings), nil)
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
	return out, it.Err()
}

func (e *exclusion) add(root string, g group) error {
	level, err := g.level(root)
	if err != nil {
		return err
	}
	if level >= maxLevel {
		return fmt.Errorf("exclude cgroup %s: more than %d levels deep", g.Path, maxLevel)
	}
	if err := e.groups.Put(g.ID, uint32(level)); err != nil {
		return fmt.Errorf("exclude cgroup %s: %w", g.Path, err)
	}
	return e.setLevels()
}

func (e *exclusion) remove(id uint64) error {
	if err := e.groups.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("include cgroup %d again: %w", id, err)
	}
	return e.setLevels()
}

// setLevels tells the programs which levels of ancestors to look at.
func (e *exclusion) setLevels() error {
	all, err := e.all()
	if err != nil {
		return fmt.Errorf("list excluded cgroups: %w", err)
	}
	var set bpf.SottoInstance
	if err := e.settings.Lookup(uint32(0), &set); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	set.ExcludeLevels = 0
	for _, level := range all {
		set.ExcludeLevels |= 1 << level
	}
	if err := e.settings.Put(uint32(0), set); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// reset excludes exactly what was configured and the cgroups of commands that are
// sealed by an instance of their own.
func (i *Instance) resetExclusion() (err error) {
	reg, err := openRegistry(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	others, err := reg.others(i.cfg.Name)
	if err != nil {
		return err
	}
	want, err := findGroups(i.cfg.Exclude)
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
		return fmt.Errorf("list excluded cgroups: %w", err)
	}
	var errs []error
	for _, g := range want {
		delete(old, g.ID)
		errs = append(errs, e.add(i.workloads.root, g))
	}
	for id := range old {
		errs = append(errs, e.remove(id))
	}
	return errors.Join(errs...)
}

func (i *Instance) exclusion() *exclusion { return &exclusion{i.kernel.Exclude, i.kernel.Settings} }

// tellOthers enters this instance's cgroups in the exclusion of every other that
// runs, or takes them out. One that is just going away is no error.
func (i *Instance) tellOthers(excluded bool) (err error) {
	reg, err := openRegistry(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	others, err := reg.others(i.cfg.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range others {
		e, err := openExclusion(pinDir(o.BPFFS, o.Name))
		if err != nil {
			continue // it has none yet, and will read the record of this one
		}
		for _, g := range i.groups {
			if excluded {
				errs = append(errs, e.add(i.workloads.root, g))
			} else {
				errs = append(errs, e.remove(g.ID))
			}
		}
		errs = append(errs, e.close())
	}
	return errors.Join(errs...)
}

// pruneExclusion forgets cgroups that are gone: those of commands that were killed
// together with their sotto.
func (i *Instance) pruneExclusion() (err error) {
	all, err := i.exclusion().all()
	if err != nil {
		return fmt.Errorf("list excluded cgroups: %w", err)
	}
	for id := range all {
		if !i.workloads.gone(id) {
			delete(all, id)
		}
	}
	if len(all) == 0 {
		return nil
	}
	reg, err := openRegistry(i.cfg.RunDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	var errs []error
	for id := range all {
		errs = append(errs, i.exclusion().remove(id))
	}
	return errors.Join(errs...)
}
