// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/upstream"
)

// lastQuery is how long after a change of the router a query may still be on its
// way to, or at, a group that the router before named: as long as a query may
// take, and a second for who was held up in between.
const lastQuery = forwarder.DefaultTimeout + time.Second

// groups are the upstream groups that are in force, and those that were and may
// still have queries. One whose configuration stays the same stays itself, with
// its connections and what it knows of its servers.
type groups struct {
	control func(network, address string, c syscall.RawConn) error
	log     *slog.Logger

	mu   sync.Mutex
	live map[string]*member // by groupPlan.key
	all  map[*member]bool   // not closed yet; true: it is in force
}

// member is one upstream group.
type member struct {
	*upstream.Group
	of     *groups
	key    string
	retire context.CancelFunc // once it runs: no query will be given to it that is not already
}

// table names the members in force. Two names of one configuration share one.
type table map[string]*member

func newGroups(control func(network, address string, c syscall.RawConn) error, log *slog.Logger) *groups {
	return &groups{control: control, log: log, live: map[string]*member{}, all: map[*member]bool{}}
}

// prepare finds or makes a member for each plan, and leaves what is in force as
// it is.
func (g *groups) prepare(plans map[string]groupPlan) (table, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, made := table{}, map[string]*member{}
	for name, p := range plans {
		m := g.live[p.key]
		if m == nil {
			m = made[p.key]
		}
		if m == nil {
			cfg := p.cfg
			cfg.Control, cfg.Log = g.control, g.log
			if name != defaultGroup {
				cfg.Log = g.log.With("group", name)
			}
			group, err := upstream.New(cfg)
			if err != nil {
				for _, m := range made {
					err = errors.Join(err, m.Group.Close())
				}
				return nil, fmt.Errorf("make the group %s: %w", name, err)
			}
			m = &member{Group: group, of: g, key: p.key}
			made[p.key] = m
		}
		t[name] = m
	}
	return t, nil
}

// closeNew closes what prepare made, when it is not to be.
func (t table) closeNew() error {
	var errs []error
	for _, m := range t {
		if !m.known() {
			errs = append(errs, m.Group.Close())
		}
	}
	return errors.Join(errs...)
}

// known reports whether its groups have taken m over.
func (m *member) known() bool {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	_, ok := m.of.all[m]
	return ok
}

// commit puts a table in force, and returns who no longer is.
func (g *groups) commit(t table) (retired []*member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = map[string]*member{}
	for _, m := range t {
		g.live[m.key] = m
		g.all[m] = true
	}
	for m, inForce := range g.all {
		if inForce && g.live[m.key] != m {
			g.all[m] = false
			retired = append(retired, m)
		}
	}
	return retired
}

// start has run called with every member in force that does not run yet, and the
// context that ends when it is retired.
func (g *groups) start(ctx context.Context, run func(inForce context.Context, m *member)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.live {
		if m.retire == nil {
			var inForce context.Context
			inForce, m.retire = context.WithCancel(ctx)
			run(inForce, m)
		}
	}
}

// NetworkChanged tells every group.
func (g *groups) NetworkChanged() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for m := range g.all {
		m.NetworkChanged()
	}
}

// Close ends every group that is left.
func (g *groups) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for m := range g.all {
		errs = append(errs, m.Group.Close())
	}
	clear(g.all)
	clear(g.live)
	return errors.Join(errs...)
}

// run keeps m's connections warm until ctx ends, or inForce; then it closes m when
// the last query that it may have been given is over.
func (m *member) run(ctx, inForce context.Context) error {
	defer m.retire()
	if err := m.Group.Run(inForce); err != nil || ctx.Err() != nil {
		return err
	}
	t := time.NewTimer(lastQuery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil // groups.Close ends it, after the forwarder
	}
	m.of.mu.Lock()
	delete(m.of.all, m)
	m.of.mu.Unlock()
	return m.Group.Close()
}
