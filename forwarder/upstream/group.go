// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sotto/forwarder/served"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

// errBadQuery is returned for input that no server is asked about.
var errBadQuery = errors.New("the query is not a DNS message")

// maintainInterval is how often idle connections are looked for.
const maintainInterval = 10 * time.Second

// Error describes why a query got no reply. Its causes are found with [errors.Is] and
// [errors.As].
type Error = transport.Error

// Group is a list of servers. Its methods are safe for concurrent use.
type Group struct {
	cfg         Config
	log         *slog.Logger
	endpoints   []*endpoint
	bootstrap   []*endpoint // those of Config.Bootstrap
	resolvers   []*endpoint // those that resolve the names of the others
	pick        order.Func
	hedges      *budget
	maintenance chan struct{}  // connections need maintenance
	wg          sync.WaitGroup // goroutines of spawn

	mu     sync.Mutex
	closed bool // spawn starts no more goroutines
}

// New returns a Group, which opens no connection before it gets a query or runs. The
// caller calls [Group.Close].
func New(cfg Config) (*Group, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, log: cfg.Log, pick: cfg.Policy.Func(), hedges: newBudget(cfg.HedgeShare), maintenance: make(chan struct{}, 1)}
	if cfg.Split != nil {
		g.pick = order.ByDomain(cfg.Split.Strict)
	}
	if err := g.addEndpoints(); err != nil {
		return nil, fmt.Errorf("create an upstream group: %w", err)
	}
	return g, nil
}

// Exchange sends a DNS query, whose ID does not matter, to one server after the other
// until one has an answer. It returns the reply, which belongs to the caller: its ID is 0,
// and its question equals that of the query except for case. If a server is late or
// silent, another one is asked at the same time, and the first good reply is returned. A
// reply with an error code (SERVFAIL, REFUSED, …) is returned only if no other server does
// better. Without any reply the error is an [*Error]. Exchange returns by the time until,
// or after [Config.Timeout] if that is sooner. It does not keep the query.
func (g *Group) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	if len(query) < wire.HeaderLen || len(query) > wire.MaxMessage {
		return nil, transport.NewLocalError(errBadQuery)
	}
	now := time.Now()
	deadline := now.Add(g.cfg.Timeout)
	if until.Before(deadline) {
		deadline = until
	}
	if g.cfg.Policy == order.Hedged {
		g.hedges.earn()
	}
	r := requests.Get().(*request)
	defer r.free()
	r.g, r.query, r.deadline = g, query, deadline
	reply, err := r.run(ctx, now)
	if r.from != nil {
		served.By(ctx, &r.from.name)
	}
	return reply, err
}

// Timeout returns [Config.Timeout].
func (g *Group) Timeout() time.Duration { return g.cfg.Timeout }

// Run keeps connections open until ctx is canceled, and then returns nil: from the start
// those to the servers that the policy prefers (the first one, or any), and those to every
// server that was used lately. It closes idle connections. A Group works without it, at
// the cost of a handshake whenever a server has closed the connection.
func (g *Group) Run(ctx context.Context) error {
	for i, e := range g.endpoints {
		if i == 0 || g.cfg.Policy != order.Failover || g.cfg.Split != nil {
			e.lastUse.CompareAndSwap(0, time.Now().UnixNano())
		}
	}
	tick := time.NewTicker(maintainInterval)
	defer tick.Stop()
	for {
		now := time.Now()
		for _, e := range g.all() {
			e.maintain(ctx, now)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-g.maintenance:
		}
	}
}

// wakeMaintenance makes Run maintain the connections now.
func (g *Group) wakeMaintenance() {
	select {
	case g.maintenance <- struct{}{}:
	default:
	}
}

// spawn runs f in a goroutine that Close waits for. It reports false if the Group is
// closed.
func (g *Group) spawn(f func()) (ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Go(f)
	return true
}

// NetworkChanged handles a change of addresses or routes: it forgets failures, and closes
// connections because they may use an address that was removed. Queries in flight are sent
// again.
func (g *Group) NetworkChanged() {
	for _, e := range g.all() {
		e.reset()
	}
	g.wakeMaintenance()
}

// Stats returns the current statistics.
func (g *Group) Stats() Stats {
	now := time.Now()
	var s Stats
	for _, e := range g.endpoints {
		s.Servers = append(s.Servers, e.stats(now))
	}
	return s
}

// Close closes all connections, fails the queries in flight, and waits until the Group's
// goroutines have exited. It may be called more than once.
func (g *Group) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	var closing sync.WaitGroup // together, because a connection may take a while to close
	for _, e := range g.all() {
		closing.Go(e.transport.Close)
	}
	closing.Wait()
	g.wg.Wait()
	return nil
}
