// SPDX-License-Identifier: Apache-2.0

package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"sotto/intercept/cgroup"
	"sotto/intercept/guard"
	"sotto/intercept/nat"
	"sotto/intercept/network"
	"sotto/intercept/pins"
	"sotto/intercept/registry"
	"sotto/internal/netns"
)

// Down removes the leftovers of dead instances: hooks, cgroups of commands with the
// processes in them, interfaces, routes, namespaces, pins and records. It does not change
// running instances; the error names them, so that the user can stop them.
func Down(ctx context.Context, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return down(ctx, log, defaultRunDir, defaultBPFFS)
}

func down(ctx context.Context, log *slog.Logger, runDir, bpffs string) (err error) {
	reg, err := registry.Open(runDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	all, err := reg.List()
	if err != nil {
		return err
	}
	known := make(map[string]registry.Found)
	for _, f := range all {
		known[f.Name] = f
	}
	names, err := strayNames(bpffs)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := known[name]; !ok {
			known[name] = registry.Found{Record: registry.Record{Name: name}}
		}
	}
	var errs []error
	for _, f := range known {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if f.Alive {
			errs = append(errs, registry.RunningError{Found: f})
			continue
		}
		if err := clearInstance(reg, f.Record, bpffs); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Info("removed the leftovers of an instance", "instance", f.Name)
	}
	_ = os.Remove(pins.Base(bpffs)) // ENOTEMPTY: instances are running
	return errors.Join(errs...)
}

// ClearStray removes what a stopped instance could not remove: a namespace and interfaces
// without a record. It does not change instances that are running, were killed or left
// their hooks, so it never opens a seal. It is for the service manager, after a stop.
func ClearStray(ctx context.Context, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return clearStray(ctx, log, defaultRunDir, defaultBPFFS)
}

func clearStray(ctx context.Context, log *slog.Logger, runDir, bpffs string) (err error) {
	reg, err := registry.Open(runDir) // under its lock a starting instance writes its record first
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Release()) }()
	all, err := reg.List()
	if err != nil {
		return err
	}
	names, err := strayNames(bpffs)
	if err != nil {
		return err
	}
	slices.Sort(names) // an instance may be listed for its namespace and for its interface
	for _, name := range slices.Compact(names) {
		recorded := slices.ContainsFunc(all, func(f registry.Found) bool { return f.Name == name })
		_, err := os.Lstat(pins.Dir(bpffs, name))
		if recorded || !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			continue
		}
		if err := clearInstance(reg, registry.Record{Name: name}, bpffs); err != nil {
			return err
		}
		log.Info("removed the leftovers of an instance", "instance", name)
	}
	return ctx.Err()
}

// clearInstance removes a dead instance. The caller holds the registry's lock. The order
// keeps the seal closed: the processes of a command are killed before its hooks are
// detached, and the unreachable routes are removed last. bpffs is used if the record has
// none.
func clearInstance(reg *registry.Registry, rec registry.Record, bpffs string) error {
	if rec.BPFFS != "" {
		bpffs = rec.BPFFS
	}
	if rec.Ephemeral {
		for _, g := range rec.Cgroups {
			if !g.Exists() {
				continue // removed, or another cgroup by now
			}
			if err := errors.Join(cgroup.Kill(g.Path), cgroup.Remove(g.Path)); err != nil {
				return fmt.Errorf("clear instance %s: %w", rec.Name, err)
			}
		}
	}
	prefixes := registry.Prefixes(rec.Earlier)
	for _, p := range recordedPrefixes(rec) {
		if p.IsValid() {
			prefixes = append(prefixes, p)
		}
	}
	dir := pins.Dir(bpffs, rec.Name)
	if err := errors.Join(detachRedirects(dir), destroyLeft(rec, prefixes)); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	if err := removePins(dir); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	unreachable := func() error { return destroyLeft(rec, prefixes) }
	if err := errors.Join(
		guard.ClearFilters(rec.Name),
		network.Clear(rec.Name, linkBase(rec.Name), unreachable, prefixes...),
	); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	if err := nat.Remove(rec.Name); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	return reg.Remove(rec.Name)
}

// recordedPrefixes returns the recorded prefixes, or if the record has none, the default ones of an
// instance with that name.
func recordedPrefixes(r registry.Record) []netip.Prefix {
	if r.Prefix4.IsValid() || r.Prefix6.IsValid() {
		return []netip.Prefix{r.Prefix4, r.Prefix6}
	}
	if r.Name == defaultName {
		return []netip.Prefix{network.DefaultPrefix4, network.DefaultPrefix6}
	}
	for n := range network.MaxAssignments {
		if a := network.NthAssignment(n); a.Name == r.Name {
			return []netip.Prefix{a.Prefix4, a.Prefix6}
		}
	}
	return nil
}

// strayNames returns the names of instances that left pins, a namespace, an interface or a
// nat table. The directory of pins belongs to Sotto; of the others only names that Sotto
// picks itself count.
func strayNames(bpffs string) ([]string, error) {
	var names []string
	entries, err := os.ReadDir(pins.Base(bpffs))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find leftovers: %w", err)
	}
	for _, e := range entries {
		if registry.ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	spaces, err := netns.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range spaces {
		if isDefaultName(name) {
			names = append(names, name)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("find leftovers: %w", err)
	}
	for _, l := range links {
		if name := nameOfLink(l.Name); isDefaultName(name) {
			names = append(names, name)
		}
	}
	tables, err := nat.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range tables {
		if isDefaultName(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// isDefaultName reports whether Sotto picks the name for an instance by default.
func isDefaultName(name string) bool { return len(recordedPrefixes(registry.Record{Name: name})) > 0 }

// nameOfLink is the inverse of linkBase for names that Sotto picks. It returns "" for other
// interfaces.
func nameOfLink(link string) string {
	base, ok := strings.CutPrefix(link, "sotto")
	if !ok || (!strings.HasSuffix(base, "0") && !strings.HasSuffix(base, "1")) {
		return ""
	}
	if base = base[:len(base)-1]; base == "" {
		return defaultName
	}
	return defaultName + "-" + base
}
