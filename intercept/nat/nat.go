// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"sotto/internal/netns"
)

// Config describes the table of one instance.
type Config struct {
	// Instance is the name of the instance. The name of the table is derived from it.
	Instance string

	// Prefixes are the networks of the virtual addresses, at most one per family.
	Prefixes []netip.Prefix

	Log *slog.Logger // nil discards
}

// Table is the nftables table of one instance, in both families. Its methods may be called
// concurrently.
type Table struct {
	cfg  Config
	name string
	home *netns.NS // the host's network namespace

	mu       sync.Mutex
	closed   bool
	warned   bool              // about a kernel without nf_tables
	ensured  bool              // ensure ran before
	foreign  map[chainKey]bool // the nat chains of other programs, as of the last ensure
	added    bool              // others may have been added since then
	families []*family
}

// family is the table of one family.
type family struct {
	tableRules

	written bool      // this process has written or adopted it
	unused  time.Time // since when the table has not been needed; zero if it is, or does not exist
}

// New prepares a table for the network namespace of the calling thread. It changes nothing
// yet. The caller closes it with Remove or Leave.
func New(cfg Config) (*Table, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	home, err := netns.Current()
	if err != nil {
		return nil, err
	}
	t := &Table{cfg: cfg, name: tableName(cfg.Instance), home: home}
	for _, p := range cfg.Prefixes {
		t.families = append(t.families, &family{tableRules: newTableRules(t.name, p)})
	}
	return t, nil
}

// unusedTime is how long a table stays after the last nat chain of other programs was removed.
// Reloading a firewall often removes its tables and adds them again.
const unusedTime = time.Second

// Ensure adds the table if the host translates addresses, adopts the one of an earlier
// process, corrects changes by other programs, and removes the table once no other program
// has had nat chains for a second. If nothing differs it changes nothing.
//
// A kernel without nf_tables is not an error. If such a kernel translates addresses, by
// iptables-legacy, Ensure logs a warning once.
func (t *Table) Ensure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	return t.home.Do(t.ensure)
}

// ensure runs in the host's network namespace. t.mu is held.
func (t *Table) ensure() error {
	legacy := readLegacy()
	conn, rs, err := openRuleset()
	if unsupported(err) {
		if len(legacy) > 0 {
			t.warnUnsupported(err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	t.foreign = rs.foreignChains()
	var errs []error
	for _, f := range t.families {
		if err := t.ensureFamily(conn, f, rs, legacy[f.family()]); err != nil {
			errs = append(errs, fmt.Errorf("exempt %s from NAT: %w", f.prefix, err))
		}
	}
	t.added = len(errs) > 0 && t.added
	t.ensured = true
	return errors.Join(errs...)
}

// warnUnsupported logs once that the kernel does not support what a table needs.
func (t *Table) warnUnsupported(err error) {
	if t.warned {
		return
	}
	t.warned = true
	t.cfg.Log.Warn("cannot exempt virtual addresses from the NAT of this host: the kernel has no nf_tables with nat (CONFIG_NFT_NAT); "+
		"queries that a nat rule of this host matches are not answered", "err", err)
}

// openRuleset opens a connection for the calling thread's namespace and reads the
// chains and tables.
func openRuleset() (*nftables.Conn, *ruleset, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables connection: %w", err)
	}
	rs, err := readRuleset(conn)
	if err != nil {
		_ = conn.CloseLasting()
		return nil, nil, err
	}
	return conn, rs, nil
}

// ensureFamily adds, corrects or removes the table of one family.
func (t *Table) ensureFamily(conn *nftables.Conn, f *family, rs *ruleset, legacy bool) error {
	exists := rs.has(f.table)
	if !legacy && !rs.translates(f.family()) {
		return t.retire(conn, f, exists)
	}
	f.unused = time.Time{}
	complete := exists && f.complete(conn, rs)
	// Among chains with the same priority the one added last runs first.
	late := rs.hasSamePriority(f.family()) && (t.added || !f.written)
	if complete && !late {
		f.written = true
		return nil
	}
	f.write(conn, exists)
	err := conn.Flush()
	if errors.Is(err, unix.ENOENT) && !exists { // nothing was to be deleted, so the kernel lacks the chain type or the expression
		t.warnUnsupported(err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if f.written && !complete {
		t.cfg.Log.Warn("restored the NAT exemption: another program changed it", "prefix", f.prefix)
	} else {
		t.cfg.Log.Debug("exempted virtual addresses from NAT", "prefix", f.prefix)
	}
	f.written = true
	if t.ensured { // before the first time no query was sent
		n, err := forgetTranslated(f.prefix)
		t.cfg.Log.Debug("deleted tracked connections that were translated", "prefix", f.prefix, "connections", n, "err", err)
	}
	return nil
}

// retire removes a table that has not been needed for unusedTime.
func (t *Table) retire(conn *nftables.Conn, f *family, exists bool) error {
	f.written = false
	if !exists {
		f.unused = time.Time{}
		return nil
	}
	if f.unused.IsZero() {
		f.unused = time.Now()
	}
	if time.Since(f.unused) < unusedTime {
		return nil
	}
	t.cfg.Log.Debug("removed the NAT exemption: the host has no NAT any more", "prefix", f.prefix)
	f.unused = time.Time{}
	return remove(conn, f.table)
}

// retiring reports whether a table is not needed and will be removed.
func (t *Table) retiring() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.families, func(f *family) bool { return !f.unused.IsZero() })
}

// Remove removes the table in both families. Ensure does nothing afterwards. Remove is
// idempotent.
func (t *Table) Remove() error {
	return t.close(func() error { return t.home.Do(func() error { return Remove(t.cfg.Instance) }) })
}

// Leave leaves the table in place. Ensure and Remove do nothing afterwards.
func (t *Table) Leave() error {
	return t.close(func() error { return nil })
}

func (t *Table) close(last func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return errors.Join(last(), t.home.Close())
}

// Remove removes the table of an instance in the network namespace of the calling thread. It
// is not an error if there is none.
func Remove(instance string) error {
	conn, rs, err := openRuleset()
	if unsupported(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove nat table of %s: %w", instance, err)
	}
	defer conn.CloseLasting()
	var errs []error
	for _, table := range rs.tables {
		if isOwn(table) && table.Name == tableName(instance) {
			errs = append(errs, remove(conn, table))
		}
	}
	return errors.Join(errs...)
}

// remove deletes one table with everything in it.
func remove(conn *nftables.Conn, table *nftables.Table) error {
	conn.DelTable(table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nat table %s: %w", table.Name, err)
	}
	return nil
}

// Instances returns the names of the instances that have a table in the network
// namespace of the calling thread.
func Instances() ([]string, error) {
	conn, rs, err := openRuleset()
	if unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nat tables: %w", err)
	}
	defer conn.CloseLasting()
	var names []string
	for _, table := range rs.tables {
		if name, ok := instanceOf(table); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// unsupported reports whether an error of reading the ruleset means that the kernel has no
// nf_tables: neither the netlink protocol nor its subsystem (nfnetlink_rcv_msg).
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}
