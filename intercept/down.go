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
	"path/filepath"
	"slices"
	"strings"

	"sotto/intercept/nat"
	"sotto/internal/netns"
)

// Down takes away what dead instances left on this machine: hooks, cgroups of
// commands with what still runs in them, links, routes, namespaces, pins, records.
// It needs no daemon and ends none: living instances are left alone and named in
// the error, for whoever started them to stop.
func Down(ctx context.Context, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return down(ctx, log, defaultRunDir, defaultBPFFS)
}

func down(ctx context.Context, log *slog.Logger, runDir, bpffs string) (err error) {
	reg, err := openRegistry(runDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	all, err := reg.list()
	if err != nil {
		return err
	}
	known := make(map[string]found)
	for _, f := range all {
		known[f.Name] = f
	}
	names, err := strayNames(bpffs)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := known[name]; !ok {
			known[name] = found{record: record{Name: name}}
		}
	}
	var errs []error
	for _, f := range known {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if f.alive {
			errs = append(errs, errRunning(f))
			continue
		}
		if err := clearInstance(reg, f.record, bpffs); err != nil {
			errs = append(errs, err)
			continue
		}
		log.Info("took away what an instance left", "instance", f.Name)
	}
	// Gone when it was the last; ENOTEMPTY when not.
	_ = os.Remove(filepath.Join(bpffs, "sotto"))
	return errors.Join(errs...)
}

// ClearStray takes away what an instance that has stopped could not: its namespace and
// links, of which no record tells. It changes nothing of an instance that runs, that was
// killed, or that left its hooks: it opens no seal. It is for the service manager, after a
// stop.
func ClearStray(ctx context.Context, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return clearStray(ctx, log, defaultRunDir, defaultBPFFS)
}

func clearStray(ctx context.Context, log *slog.Logger, runDir, bpffs string) (err error) {
	reg, err := openRegistry(runDir) // held: an instance that starts has a record first
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.release()) }()
	all, err := reg.list()
	if err != nil {
		return err
	}
	names, err := strayNames(bpffs)
	if err != nil {
		return err
	}
	slices.Sort(names) // one may be there for its namespace and for its link
	for _, name := range slices.Compact(names) {
		recorded := slices.ContainsFunc(all, func(f found) bool { return f.Name == name })
		_, err := os.Lstat(pinDir(bpffs, name))
		if recorded || !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			continue
		}
		if err := clearInstance(reg, record{Name: name}, bpffs); err != nil {
			return err
		}
		log.Info("took away what an instance left", "instance", name)
	}
	return ctx.Err()
}

// clearInstance takes away a dead instance. The caller holds the registry. The
// order keeps the seal closed: a command's processes end before its hooks go, and
// the unreachable routes go last. bpffs is where to look when the record is lost.
func clearInstance(reg *registry, rec record, bpffs string) error {
	if rec.BPFFS != "" {
		bpffs = rec.BPFFS
	}
	if rec.Ephemeral {
		for _, g := range rec.Cgroups {
			if !g.same() {
				continue // gone, or not the one that Sotto made
			}
			if err := errors.Join(killCgroup(g.Path), removeCgroup(g.Path)); err != nil {
				return fmt.Errorf("clear instance %s: %w", rec.Name, err)
			}
		}
	}
	var prefixes []netip.Prefix
	for _, p := range rec.prefixes() {
		if p.IsValid() {
			prefixes = append(prefixes, p)
		}
	}
	dir := pinDir(bpffs, rec.Name)
	if err := errors.Join(detachRedirects(dir), endLeftSockets(rec, prefixes)); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	if err := removePins(dir); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	if err := clearNetwork(rec.Name, linkBase(rec.Name), func() error { return endLeftSockets(rec, prefixes) }, prefixes...); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	if err := nat.Remove(rec.Name); err != nil {
		return fmt.Errorf("clear instance %s: %w", rec.Name, err)
	}
	return reg.forget(rec.Name)
}

// prefixes are the recorded ones, or where the record is lost those that an
// instance of the name has unless configured.
func (r record) prefixes() []netip.Prefix {
	if r.Prefix4.IsValid() || r.Prefix6.IsValid() {
		return []netip.Prefix{r.Prefix4, r.Prefix6}
	}
	if r.Name == defaultName {
		return []netip.Prefix{defaultPrefix4, defaultPrefix6}
	}
	for n := range maxInstances {
		if in := nthInstance(n); in.name == r.Name {
			return []netip.Prefix{in.prefix4, in.prefix6}
		}
	}
	return nil
}

// strayNames returns the names of instances that left pins, a namespace, a link or a
// nat table without a record. Pins are Sotto's own place; of the rest only those count
// whose names Sotto picks itself.
func strayNames(bpffs string) ([]string, error) {
	var names []string
	pins, err := os.ReadDir(filepath.Join(bpffs, "sotto"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range pins {
		if goodName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	spaces, err := netns.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range spaces {
		if picked(name) {
			names = append(names, name)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	for _, l := range links {
		if name := nameOfLink(l.Name); picked(name) {
			names = append(names, name)
		}
	}
	tables, err := nat.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range tables {
		if picked(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// picked tells whether a name is one that an instance has unless configured.
func picked(name string) bool { return len(record{Name: name}.prefixes()) > 0 }

// nameOfLink undoes linkBase for the names that Sotto picks; "" is no link of them.
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
