// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

// Group is a list of servers. Its methods are safe for concurrent use.
type Group struct {
	cfg       Config
	log       *slog.Logger
	endpoints []*endpoint
	pick      picker
	hedges    *budget
	kick      chan struct{}  // the warm keeper has something to look at
	wg        sync.WaitGroup // dials, connections, and what spawn began

	mu     sync.Mutex
	closed bool // nothing else is spawned
}

// New returns a Group, which opens no connection before it is asked or run. The
// caller calls [Group.Close].
func New(cfg Config) (*Group, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, log: cfg.Log, pick: cfg.Policy.picker(), hedges: newBudget(cfg.HedgeShare), kick: make(chan struct{}, 1)}
	for _, s := range cfg.Servers {
		g.endpoints = append(g.endpoints, newEndpoint(g, s))
	}
	return g, nil
}

// Exchange sends a whole DNS query, whose ID does not matter, to one server after
// the other until one has an answer, and returns the whole reply, whose ID is 0,
// whose question is the query's but for its case, and which is the caller's. One
// that is late or silent is not waited for alone: another one is asked beside it,
// and the first good reply is taken. A reply with an error code (SERVFAIL, REFUSED,
// …) is given only if no other server does better. Without any reply the error is
// an [*Error]. It returns by the time until, or [Config.Timeout] from now, if that
// is sooner. The query is not kept.
func (g *Group) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	if len(query) < wire.HeaderLen || len(query) > wire.MaxMessage {
		return nil, &Error{Reason: errBadQuery.Error(), causes: []error{errBadQuery}}
	}
	now := time.Now()
	deadline := now.Add(g.cfg.Timeout)
	if until.Before(deadline) {
		deadline = until
	}
	if g.cfg.Policy == Hedged {
		g.hedges.earn()
	}
	x := exchanges.Get().(*exchange)
	defer x.release()
	x.g, x.query, x.deadline = g, query, deadline
	return x.run(ctx, now)
}

// spawn runs f in a goroutine that Close waits for. Not ok: the Group is closed.
func (g *Group) spawn(f func()) (ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Go(f)
	return true
}

// NetworkChanged tells that addresses or routes are not what they were: failures
// are forgotten and connections closed, since they may be bound to an address
// that is gone. Queries in flight are sent again.
func (g *Group) NetworkChanged() {
	for _, e := range g.endpoints {
		e.reset()
	}
	g.nudge()
}

// Stats is the Group at a glance.
func (g *Group) Stats() Stats {
	now := time.Now()
	var s Stats
	for _, e := range g.endpoints {
		s.Servers = append(s.Servers, e.stats(now))
	}
	return s
}

// Close ends every connection, with the queries in flight, and waits for that.
// It is safe to call more than once.
func (g *Group) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	for _, e := range g.endpoints {
		e.link.close()
	}
	g.wg.Wait()
	return nil
}
