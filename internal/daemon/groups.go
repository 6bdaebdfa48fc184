// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/dnssec"
	"sotto/forwarder/tap"
	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/original"
	"sotto/internal/config"
)

// groups holds the upstream groups in force, and the retired ones that may still have
// queries. A group whose configuration does not change keeps its connections and what it has
// measured about its servers.
type groups struct {
	ctx     context.Context // lasts as long as queries are answered
	control func(network, address string, c syscall.RawConn) error
	log     *slog.Logger
	tap     tap.Func // may be nil

	dependent atomic.Bool // there was a member whose answers depend on the network

	mu      sync.Mutex
	inForce map[string]*member // by config.Group.Key
	open    map[*member]bool   // all members that are not closed; true if in force
}

// member is one upstream group.
type member struct {
	answers   original.Wrapped // the servers with what the group's settings add, see exchanger
	validated *dnssec.Counters // nil: answers are not validated
	treatment string           // what is done with answers: see scope
	servers   servers
	groups    *groups
	key       string
	id        string             // see Identity; "": answers are not shared
	retire    context.CancelFunc // set when it runs; called when no new query can reach it
}

// Exchange implements [forwarder.Exchanger].
func (m *member) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	return m.answers.Exchange(ctx, query, until)
}

// dependsOnNetwork reports whether the answers of m, which may be nil, depend on the network. They are
// neither shared with other instances nor used after a change of the network.
func (m *member) dependsOnNetwork() bool { return m != nil && dependsOnNetwork(m.treatment) }

// dependsOnNetwork is the same for a scope of answers.
func dependsOnNetwork(scope string) bool { return strings.Contains(scope, config.NetworkMark) }

// servers are those of a member.
type servers interface {
	forwarder.Exchanger
	Run(ctx context.Context) error
	NetworkChanged()
	Stats() upstream.Stats
	Timeout() time.Duration
	Close() error
}

// Identity implements [forwarder.Identified].
func (m *member) Identity() string { return m.id }

// table maps the names of groups to members. Names with the same configuration share one.
type table map[string]*member

func newGroups(ctx context.Context, control func(network, address string, c syscall.RawConn) error, log *slog.Logger) *groups {
	return &groups{ctx: ctx, control: control, log: log, inForce: map[string]*member{}, open: map[*member]bool{}}
}

// prepare finds or creates a member for each plan. It does not change what is in force.
func (g *groups) prepare(plans map[string]config.Group) (table, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, created := table{}, map[string]*member{}
	for _, name := range inOrder(plans) {
		p := plans[name]
		m := g.inForce[p.Key]
		if m == nil {
			m = created[p.Key]
		}
		if m == nil {
			var err error
			if m, err = g.newMember(name, p, t); err != nil {
				return nil, errors.Join(fmt.Errorf("create the group %s: %w", name, err), closeMembers(created))
			}
			created[p.Key] = m
		}
		t[name] = m
	}
	return t, nil
}

// inOrder returns the names of groups, those with the nameservers of clients after the ones that may
// be their fallbacks.
func inOrder(plans map[string]config.Group) []string {
	names := slices.Sorted(maps.Keys(plans))
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(originalLast(plans[a]), originalLast(plans[b]))
	})
	return names
}

func originalLast(p config.Group) int {
	if p.Original != nil {
		return 1
	}
	return 0
}

// newMember creates the group with that name. t has its fallback.
func (g *groups) newMember(name string, p config.Group, t table) (*member, error) {
	if err := p.Network.Outbound.Check(); err != nil {
		return nil, err
	}
	cfg := p.Config
	cfg.Control, cfg.Log, cfg.Tap = p.Network.Outbound.Control(g.control), g.log, g.tap
	if name != config.DefaultGroup {
		cfg.Log = g.log.With("group", name)
	}
	m := &member{groups: g, key: p.Key}
	if p.Validation != nil {
		m.validated, m.treatment = new(dnssec.Counters), p.Validation.Key
	}
	m.treatment += p.Network.AnswersKey()
	if p.Original != nil && t[p.Original.Fallback].dependsOnNetwork() && !m.dependsOnNetwork() {
		m.treatment += config.NetworkMark // it passes on the fallback's answers
	}
	if m.dependsOnNetwork() {
		g.dependent.Store(true)
	} else {
		sum := sha256.Sum256([]byte(p.Key))
		m.id = string(sum[:16])
	}
	if p.Original != nil {
		return m, m.openOriginal(name, p, cfg, t)
	}
	group, err := upstream.New(cfg)
	if err != nil {
		return nil, err
	}
	m.servers = group
	m.answers = exchanger(p, group, m.validated)
	return m, nil
}

func closeMembers(members map[string]*member) error {
	var errs []error
	for _, m := range members {
		errs = append(errs, m.servers.Close())
	}
	return errors.Join(errs...)
}

// discard closes the members that prepare created, if t is not committed.
func (t table) discard() error {
	var errs []error
	for _, m := range t {
		if !m.committed() {
			errs = append(errs, m.servers.Close())
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
		s = m.servers.Stats()
	}
	return s
}

// order returns the servers of the group with that key in the order in which a name is asked of them.
func (g *groups) order(key string, name []byte) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.inForce[key]; m != nil {
		if group, ok := m.servers.(*upstream.Group); ok {
			return group.Order(name)
		}
	}
	return nil
}

// exchange sends a query to the group with that key, which is in force.
func (g *groups) exchange(ctx context.Context, key string, query []byte) ([]byte, error) {
	g.mu.Lock()
	m := g.inForce[key]
	g.mu.Unlock()
	if m == nil {
		return nil, errors.New("the configuration has changed: try again")
	}
	return m.Exchange(ctx, query, time.Now().Add(m.Timeout()))
}

// NetworkChanged notifies every group.
func (g *groups) NetworkChanged() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for m := range g.open {
		m.servers.NetworkChanged()
		for _, changed := range m.answers.Changed {
			changed()
		}
	}
}

// Close closes every group.
func (g *groups) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for m := range g.open {
		errs = append(errs, m.servers.Close())
	}
	clear(g.open)
	clear(g.inForce)
	return errors.Join(errs...)
}

// run keeps the connections of m warm until ctx or inForce ends. After inForce it closes m
// when the last query that may have reached it has ended.
func (m *member) run(ctx, inForce context.Context) error {
	defer m.retire()
	if err := m.servers.Run(inForce); err != nil || ctx.Err() != nil {
		return err
	}
	t := time.NewTimer(m.retireTime())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil // groups.Close closes it, after the forwarder
	}
	m.groups.mu.Lock()
	delete(m.groups.open, m)
	m.groups.mu.Unlock()
	return m.servers.Close()
}
