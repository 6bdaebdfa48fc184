// SPDX-License-Identifier: Apache-2.0

package dot

import (
	"context"
	"time"
)

const (
	// extraIdle is how long a second connection is kept unused.
	extraIdle = 30 * time.Second

	// warmInterval limits how often Maintain opens a connection, so that a server that
	// closes every new connection is not dialled in a loop. It is shorter than the two
	// seconds after which some servers close idle connections: the next query should
	// still find an open one.
	warmInterval = time.Second
)

// Maintain implements [transport.Transport]. It also opens a connection to replace the
// ones that have reached their maximum age.
func (p *Pool) Maintain(ctx context.Context, now time.Time, expected bool) {
	p.closeIdle(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !expected || p.closed || p.dialing != nil {
		return
	}
	open, expired := 0, 0
	for _, c := range p.conns {
		if c.draining.Load() {
			continue
		}
		open++
		if c.expire(now) {
			expired++
		}
	}
	if open > 0 && expired == 0 {
		return
	}
	if wait := warmInterval - now.Sub(p.lastWarm); wait > 0 {
		p.scheduleMaintenance(wait)
		return
	}
	p.lastWarm = now
	p.startDial(ctx)
}

// scheduleMaintenance requests maintenance after that time. p.mu is held.
func (p *Pool) scheduleMaintenance(wait time.Duration) {
	if p.scheduled {
		return
	}
	p.scheduled = true
	time.AfterFunc(wait, func() {
		p.mu.Lock()
		p.scheduled = false
		p.mu.Unlock()
		p.cfg.Observer.MaintenanceDue()
	})
}

// drainExpired drains expired connections once their replacement is open. p.mu is held.
func (p *Pool) drainExpired() {
	for _, c := range p.conns {
		c.drainIfExpired()
	}
}

// closeIdle closes connections that have been unused for too long.
func (p *Pool) closeIdle(now time.Time) {
	p.mu.Lock()
	var idle []*conn
	open := 0
	for _, c := range p.conns {
		if c.draining.Load() {
			continue
		}
		limit := p.cfg.WarmTime
		if open > 0 {
			limit = extraIdle
		}
		open++
		if c.drainIfUnused(now, limit) {
			idle = append(idle, c)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.close(errIdle)
	}
}
