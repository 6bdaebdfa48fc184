// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"time"
)

const (
	// sweepEvery is how often idle connections are looked for.
	sweepEvery = 10 * time.Second

	// extraIdle is how long a connection beside another is kept unused.
	extraIdle = 30 * time.Second

	// settle keeps a server that closes every new connection from being dialled
	// in a loop by the warm keeper.
	settle = time.Second
)

// Run keeps connections warm until ctx ends, and then returns nil: from the start
// those of the servers that the policy begins with (the first one, or any), and
// those of every server that was asked lately. It closes what is idle. A Group
// works without it, at the cost of a handshake whenever the server closed the
// connection.
func (g *Group) Run(ctx context.Context) error {
	for i, e := range g.endpoints {
		if i == 0 || g.cfg.Policy != Failover {
			e.lastUse.CompareAndSwap(0, time.Now().UnixNano())
		}
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		for _, e := range g.endpoints {
			e.keep(ctx, now)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-g.kick:
		}
	}
}

// nudge has the warm keeper look now.
func (g *Group) nudge() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// keep closes connections that nobody used for long, and opens one if there is
// none and one is expected to be needed.
func (p *pool) keep(ctx context.Context, now time.Time, expected bool) {
	p.sweep(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !expected || p.closed || len(p.conns) > 0 || p.dialing != nil || now.Sub(p.lastWarm) < settle {
		return
	}
	p.lastWarm = now
	p.dial(ctx)
}

// sweep closes connections that nobody used for long.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	var idle []*conn
	for i, c := range p.conns {
		limit := p.cfg.WarmTime
		if i > 0 {
			limit = extraIdle
		}
		if since, unused := c.idleSince(); unused && now.Sub(since) > limit {
			idle = append(idle, c)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.end(errIdle)
	}
}
