// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/tap"
	"sotto/forwarder/upstream"
	"sotto/internal/config"
)

// retireTime is how long after a change of the router a query may still reach, or wait at, a
// group of the old router: the timeout of a query, and a second for delays in between.
const retireTime = forwarder.DefaultTimeout + time.Second

// groups holds the upstream groups in force, and the retired ones that may still have
// queries. A group whose configuration does not change keeps its connections and what it has
// measured about its servers.
type groups struct {
	control func(network, address string, c syscall.RawConn) error
	log     *slog.Logger
	tap     tap.Func // may be nil

	mu      sync.Mutex
	inForce map[string]*member // by config.Group.Key
	open    map[*member]bool   // all members that are not closed; true if in force
}

// member is one upstream group.
type member struct {
	*upstream.Group
	groups *groups
	key    string
	retire context.CancelFunc // set when it runs; called when no new query can reach it
}

// table maps the names of groups to members. Names with the same configuration share one.
type table map[string]*member

func newGroups(control func(network, address string, c syscall.RawConn) error, log *slog.Logger) *groups {
	return &groups{control: control, log: log, inForce: map[string]*member{}, open: map[*member]bool{}}
}

// prepare finds or creates a member for each plan. It does not change what is in force.
func (g *groups) prepare(plans map[string]config.Group) (table, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, created := table{}, map[string]*member{}
	for name, p := range plans {
		m := g.inForce[p.Key]
		if m == nil {
			m = created[p.Key]
		}
		if m == nil {
			cfg := p.Config
			cfg.Control, cfg.Log, cfg.Tap = g.control, g.log, g.tap
			if name != config.DefaultGroup {
				cfg.Log = g.log.With("group", name)
			}
			group, err := upstream.New(cfg)
			if err != nil {
				for _, m := range created {
					err = errors.Join(err, m.Group.Close())
				}
				return nil, fmt.Errorf("create the group %s: %w", name, err)
			}
			m = &member{Group: group, groups: g, key: p.Key}
			created[p.Key] = m
		}
		t[name] = m
	}
	return t, nil
}

// discard closes the members that prepare created, if t is not committed.
func (t table) discard() error {
	var errs []error
	for _, m := range t {
		if !m.committed() {
			errs = append(errs, m.Group.Close())
		}
	}
	return errors.Join(errs...)
}

// committed reports whether m was put in force at some time.
func (m *member) committed() bool {
	m.groups.mu.Lock()
	defer m.groups.mu.Unlock()
	_, ok := m.groups.open[m]
	return ok
}

// commit puts a table in force, and returns the members that no longer are.
func (g *groups) commit(t table) (retired []*member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inForce = map[string]*member{}
	for _, m := range t {
		g.inForce[m.key] = m
		g.open[m] = true
	}
	for m, inForce := range g.open {
		if inForce && g.inForce[m.key] != m {
			g.open[m] = false
			retired = append(retired, m)
		}
	}
	return retired
}

// start calls run for every member in force that does not run yet, with a context that ends
// when the member is retired.
func (g *groups) start(ctx context.Context, run func(inForce context.Context, m *member)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.inForce {
		if m.retire == nil {
			var inForce context.Context
			inForce, m.retire = context.WithCancel(ctx)
			run(inForce, m)
		}
	}
}

// stats returns the statistics of the group with that key, which is in force.
func (g *groups) stats(key string) (s upstream.Stats) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.inForce[key]; m != nil {
		s = m.Stats()
	}
	return s
}

// exchange sends a query to the group with that key, which is in force.
func (g *groups) exchange(ctx context.Context, key string, query []byte) ([]byte, error) {
	g.mu.Lock()
	m := g.inForce[key]
	g.mu.Unlock()
	if m == nil {
		return nil, errors.New("the configuration has changed: try again")
	}
	return m.Exchange(ctx, query, time.Now().Add(forwarder.DefaultTimeout))
}

// NetworkChanged notifies every group.
func (g *groups) NetworkChanged() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for m := range g.open {
		m.NetworkChanged()
	}
}

// Close closes every group.
func (g *groups) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for m := range g.open {
		errs = append(errs, m.Group.Close())
	}
	clear(g.open)
	clear(g.inForce)
	return errors.Join(errs...)
}

// run keeps the connections of m warm until ctx or inForce ends. After inForce it closes m
// when the last query that may have reached it has ended.
func (m *member) run(ctx, inForce context.Context) error {
	defer m.retire()
	if err := m.Group.Run(inForce); err != nil || ctx.Err() != nil {
		return err
	}
	t := time.NewTimer(retireTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil // groups.Close closes it, after the forwarder
	}
	m.groups.mu.Lock()
	delete(m.groups.open, m)
	m.groups.mu.Unlock()
	return m.Group.Close()
}
