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
	// in a loop by the warm keeper. Some close theirs after two idle seconds, and
	// are to be found open by the next query nevertheless.
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

// keep closes connections that nobody used for long, and opens one if one is
// expected to be needed and there is none, or none but such as have grown old.
func (p *pool) keep(ctx context.Context, now time.Time, expected bool) {
	p.sweep(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !expected || p.closed || p.dialing != nil {
		return
	}
	live, aged := 0, 0
	for _, c := range p.conns {
		if c.retired.Load() {
			continue
		}
		live++
		if !now.Before(c.old) {
			c.aged = true
			aged++
		}
	}
	if live > 0 && aged == 0 {
		return
	}
	if wait := settle - now.Sub(p.lastWarm); wait > 0 {
		p.lookAgain(wait)
		return
	}
	p.lastWarm = now
	p.dial(ctx)
}

// lookAgain has keep called after that time. p.mu is held.
func (p *pool) lookAgain(wait time.Duration) {
	if p.looking {
		return
	}
	p.looking = true
	time.AfterFunc(wait, func() {
		p.mu.Lock()
		p.looking = false
		p.mu.Unlock()
		p.nudge()
	})
}

// retireAged lets connections go whose replacement is there. p.mu is held.
func (p *pool) retireAged() {
	for _, c := range p.conns {
		if c.aged {
			c.retire()
		}
	}
}

// sweep closes connections that nobody used for long.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	var idle []*conn
	live := 0
	for _, c := range p.conns {
		if c.retired.Load() {
			continue
		}
		limit := p.cfg.WarmTime
		if live > 0 {
			limit = extraIdle
		}
		live++
		if c.retireUnused(now, limit) {
			idle = append(idle, c)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.end(errIdle)
	}
}
