// SPDX-License-Identifier: Apache-2.0

package conns

import (
	"context"
	"errors"
	"time"
)

const (
	// ExtraIdle is how long a second connection is kept unused.
	ExtraIdle = 30 * time.Second

	// WarmInterval limits how often Maintain opens a connection, so that a server that
	// closes every new connection is not dialled in a loop. It is shorter than the two
	// seconds after which some servers close idle connections: the next query should
	// still find an open one.
	WarmInterval = time.Second
)

// ErrIdle is why an unused connection is closed.
var ErrIdle = errors.New("the connection was idle")

// Maintain closes connections that are unused. If queries are expected, it opens one where there is
// none, and one to replace those that have reached their maximum age.
func (s *Set[C]) Maintain(ctx context.Context, now time.Time, expected bool) {
	s.closeIdle(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !expected || s.closed || s.dialing != nil {
		return
	}
	open, expired := 0, 0
	for _, c := range s.list {
		if !c.Accepts() {
			continue
		}
		open++
		if c.Expire(now) {
			expired++
		}
	}
	if open > 0 && expired == 0 {
		return
	}
	if wait := WarmInterval - now.Sub(s.lastWarm); wait > 0 {
		s.scheduleMaintenance(wait)
		return
	}
	s.lastWarm = now
	s.startDial(ctx)
}

// SetLastWarm sets when Maintain last opened a connection, for tests.
func (s *Set[C]) SetLastWarm(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastWarm = at
}

// scheduleMaintenance requests maintenance after that time. s.mu is held.
func (s *Set[C]) scheduleMaintenance(wait time.Duration) {
	if s.scheduled {
		return
	}
	s.scheduled = true
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		s.scheduled = false
		s.mu.Unlock()
		s.cfg.Observer.MaintenanceDue()
	})
}

// closeIdle closes connections that have been unused for too long.
func (s *Set[C]) closeIdle(now time.Time) {
	s.mu.Lock()
	var idle []C
	open := 0
	for _, c := range s.list {
		if !c.Accepts() {
			continue
		}
		limit := s.idle
		if open > 0 {
			limit = min(limit, ExtraIdle)
		}
		open++
		if c.DrainIfUnused(now, limit) {
			idle = append(idle, c)
		}
	}
	s.mu.Unlock()
	for _, c := range idle {
		c.Close(ErrIdle)
	}
}
