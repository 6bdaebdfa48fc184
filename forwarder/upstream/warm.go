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

// Run keeps connections warm until ctx ends, and then returns nil: the first
// server's from the start, and those of every server that was asked lately. It
// closes what is idle. A Group works without it, at the cost of a handshake
// whenever the server closed the connection.
func (g *Group) Run(ctx context.Context) error {
	g.endpoints[0].lastUse.CompareAndSwap(0, time.Now().UnixNano())
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		for _, e := range g.endpoints {
			e.sweep(now)
			e.warm(ctx, now)
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

// warm opens a connection if there is none and one will be wanted.
func (e *endpoint) warm(ctx context.Context, now time.Time) {
	used := time.Unix(0, e.lastUse.Load())
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.conns) > 0 || e.dialing != nil || now.Sub(used) > e.g.cfg.WarmTime {
		return
	}
	if now.Before(e.health.until) || now.Sub(e.lastWarm) < settle {
		return
	}
	e.lastWarm = now
	e.dial(ctx)
}

// sweep closes connections that nobody used for long.
func (e *endpoint) sweep(now time.Time) {
	e.mu.Lock()
	var idle []*conn
	for i, c := range e.conns {
		limit := e.g.cfg.WarmTime
		if i > 0 {
			limit = extraIdle
		}
		if since, unused := c.idleSince(); unused && now.Sub(since) > limit {
			idle = append(idle, c)
		}
	}
	e.mu.Unlock()
	for _, c := range idle {
		c.end(errIdle)
	}
}
