// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"sotto/intercept/cgroup"
	"sotto/intercept/network"
	"sotto/intercept/registry"
	"sotto/internal/netns"
)

// claimInstance sets the name and prefixes of the instance, and makes the calling process its
// owner. It also clears dead instances that sealed commands. earlier lists what dead
// processes with the same instance name may have left.
func claimInstance(cfg *Config, groups []cgroup.Group) (_ *os.File, earlier []registry.Leftover, err error) {
	reg, err := registry.Open(cfg.RunDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	all, err := reg.List()
	if err != nil {
		return nil, nil, err
	}
	for i, f := range all {
		if f.Alive || !f.Ephemeral {
			continue
		}
		// Leftovers do not prevent this start.
		if err := clearInstance(reg, f.Record, cfg.BPFFS); err != nil {
			cfg.Log.Warn("cannot clear a dead instance", "instance", f.Name, "err", err)
			continue
		}
		cfg.Log.Info("cleared a dead instance", "instance", f.Name)
		all[i].Name = ""
	}
	if err := nameInstance(cfg, all); err != nil {
		return nil, nil, err
	}
	for _, f := range all {
		if f.Name == cfg.Name {
			earlier = f.Leftovers()
		}
	}
	rec := newRecord(cfg, groups)
	for _, l := range earlier {
		if l.Prefix4.IsValid() && !slices.ContainsFunc(rec.Leftovers(), l.Equal) { // not of an incomplete record
			rec.Earlier = append(rec.Earlier, l)
		}
	}
	file, err := reg.Claim(rec)
	return file, rec.Earlier, err
}

// newRecord returns the record of the calling process.
func newRecord(cfg *Config, groups []cgroup.Group) registry.Record {
	return registry.Record{
		Pid: os.Getpid(), Name: cfg.Name, Ephemeral: cfg.Ephemeral, BPFFS: cfg.BPFFS,
		Prefix4: cfg.Prefix4, Prefix6: cfg.Prefix6, Cgroups: groups,
	}
}

// nameInstance picks a name and prefixes where cfg has none. It returns an error if the name
// or a prefix is in use.
func nameInstance(cfg *Config, all []registry.Found) error {
	if cfg.Name == "" || !cfg.Prefix4.IsValid() || !cfg.Prefix6.IsValid() {
		// A namespace without a record belongs to an instance with another RunDir, or is a
		// leftover that Down removes.
		used, err := netns.Names()
		if err != nil {
			return err
		}
		for _, f := range all {
			used = append(used, f.Name)
		}
		taken := func(name string) bool { return slices.Contains(used, name) }
		picked, err := network.PickAssignment(taken)
		if err != nil {
			return err
		}
		if cfg.Name == "" {
			cfg.Name = picked.Name
		}
		if !cfg.Prefix4.IsValid() {
			cfg.Prefix4 = picked.Prefix4
		}
		if !cfg.Prefix6.IsValid() {
			cfg.Prefix6 = picked.Prefix6
		}
	}
	for _, f := range all {
		if f.Alive && f.Name == cfg.Name {
			return registry.RunningError{Found: f}
		}
	}
	for _, f := range all {
		if f.Name != "" && f.Name != cfg.Name && (f.Prefix4.IsValid() && f.Prefix4.Overlaps(cfg.Prefix4) ||
			f.Prefix6.IsValid() && f.Prefix6.Overlaps(cfg.Prefix6)) {
			return fmt.Errorf("open instance %s: its prefixes overlap those of instance %s (%s, %s); set other prefixes", cfg.Name, f.Name, f.Prefix4, f.Prefix6)
		}
	}
	return nil
}
