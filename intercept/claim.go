// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"sotto/internal/netns"
)

// claimInstance gives the configured instance its name and prefixes and makes the
// calling process its owner. What dead commands left behind is cleared on the way. previous
// are the directories that a dead process of the name sealed.
func claimInstance(cfg *Config, groups []group) (_ *os.File, previous []string, err error) {
	reg, err := openRegistry(cfg.RunDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	all, err := reg.list()
	if err != nil {
		return nil, nil, err
	}
	for i, f := range all {
		if f.alive || !f.Ephemeral {
			continue
		}
		// Its leftovers are in nobody's way but their own: this start goes on.
		if err := clearInstance(reg, f.record, cfg.BPFFS); err != nil {
			cfg.Log.Warn("cannot clear what a dead instance left", "instance", f.Name, "err", err)
			continue
		}
		cfg.Log.Info("cleared what a dead instance left", "instance", f.Name)
		all[i].Name = ""
	}
	if err := nameInstance(cfg, all); err != nil {
		return nil, nil, err
	}
	for _, f := range all {
		if f.Name == cfg.Name {
			previous = f.directories()
		}
	}
	file, err := reg.claim(newRecord(cfg, groups))
	return file, previous, err
}

// newRecord is what the calling process leaves of itself.
func newRecord(cfg *Config, groups []group) record {
	return record{
		Pid: os.Getpid(), Name: cfg.Name, Ephemeral: cfg.Ephemeral, BPFFS: cfg.BPFFS,
		Prefix4: cfg.Prefix4, Prefix6: cfg.Prefix6, Cgroups: groups,
	}
}

// nameInstance picks what cfg leaves open, and refuses a name that is in use.
func nameInstance(cfg *Config, all []found) error {
	if cfg.Name == "" || !cfg.Prefix4.IsValid() || !cfg.Prefix6.IsValid() {
		// A namespace without a record here is of somebody with another RunDir, or a
		// stray one for Down.
		used, err := netns.Names()
		if err != nil {
			return err
		}
		for _, f := range all {
			used = append(used, f.Name)
		}
		taken := func(name string) bool { return slices.Contains(used, name) }
		in, err := pickInstance(taken)
		if err != nil {
			return err
		}
		if cfg.Name == "" {
			cfg.Name = in.name
		}
		if !cfg.Prefix4.IsValid() {
			cfg.Prefix4 = in.prefix4
		}
		if !cfg.Prefix6.IsValid() {
			cfg.Prefix6 = in.prefix6
		}
	}
	for _, f := range all {
		if f.alive && f.Name == cfg.Name {
			return errRunning(f)
		}
	}
	for _, f := range all {
		if f.Name != "" && f.Name != cfg.Name && (f.Prefix4.IsValid() && f.Prefix4.Overlaps(cfg.Prefix4) ||
			f.Prefix6.IsValid() && f.Prefix6.Overlaps(cfg.Prefix6)) {
			return fmt.Errorf("open instance %s: its prefixes overlap those of instance %s (%s, %s); give it others", cfg.Name, f.Name, f.Prefix4, f.Prefix6)
		}
	}
	return nil
}
