// SPDX-License-Identifier: Apache-2.0

package conns

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"sotto/forwarder/upstream/transport"
	"sotto/internal/durations"
)

const (
	// BusyLoad is the number of queries in flight at which a second connection is worth
	// opening. Over TCP, replies behind a lost packet delay that many; servers of HTTP and QUIC
	// usually allow 100 or more streams.
	BusyLoad = 64

	// dialPause is how long a failed dial also fails the queries that follow. While every
	// server is down each query tries to dial; this limits the rate on a busy machine.
	dialPause = 250 * time.Millisecond
)

// Conn is one connection. Its methods are called concurrently. Those up to DrainIfUnused are called
// with the set locked, and do not call its methods.
type Conn interface {
	comparable

	// Accepts reports whether the connection accepts queries.
	Accepts() bool

	// Tired reports whether it will accept only few more queries.
	Tired() bool

	// Load returns the number of queries in flight and of those about to be sent. Reserve
	// counts another one.
	Load() int
	Reserve()

	// Expire marks the connection as expired if it has reached its age, and reports whether
	// it has.
	Expire(now time.Time) bool

	// DrainIfUnused lets the connection accept no more queries, for its caller to close it, if
	// it has been unused for longer than limit. It reports whether it did.
	DrainIfUnused(now time.Time, limit time.Duration) bool

	// DrainIfExpired lets a connection that was marked as expired accept no more queries. It
	// closes when no reply is pending.
	DrainIfExpired()

	// Opened returns when the connection was opened.
	Opened() time.Time

	// Run serves the connection until it closes.
	Run()

	// Close closes the connection for that reason, unless it is closed already.
	Close(reason error)
}

// Open opens a connection to the server. The connection calls closed once, when it is closed, before
// the queries in flight fail.
type Open[C Conn] func(ctx context.Context, closed func(c C, reason error)) (C, error)

// Set is the connections to one server. Its methods may be called concurrently.
type Set[C Conn] struct {
	cfg    *transport.Config
	idle   time.Duration // a connection is closed when unused for this long
	open   Open[C]
	opened *durations.Histogram
	wg     sync.WaitGroup // dials, connections and other work

	mu        sync.Mutex
	list      []C
	dialing   *pendingDial // nil if no dial is in progress
	dialErr   error        // of the latest dial, nil if it succeeded
	dialErrAt time.Time
	lastWarm  time.Time // when Maintain last opened a connection
	scheduled bool      // a timer will request maintenance
	closed    bool
}

// New returns a set, which opens no connection before it is used, and closes one that is unused for
// the time idle. The time that each took to open is added to opened.
func New[C Conn](cfg *transport.Config, idle time.Duration, opened *durations.Histogram, open Open[C]) *Set[C] {
	return &Set[C]{cfg: cfg, idle: idle, open: open, opened: opened}
}

// Reserve returns the least busy connection, on which a query is counted. If there is none, it waits
// for one that is being opened.
func (s *Set[C]) Reserve(ctx context.Context, until time.Time, w transport.Waiter) (C, error) {
	var none C
	for {
		c, d, err := s.pick(ctx)
		if d == nil {
			return c, err
		}
		if err := w.Wait(ctx, d.done, time.Now(), until, nil); err != nil {
			return none, err
		}
		// The failure of a dial fails all queries that waited for it, unless it was
		// canceled by a change of the network.
		if d.err != nil && !errors.Is(d.err, transport.ErrNetworkChanged) {
			return none, d.err
		}
	}
}

// pick returns the least busy connection or, if there is none, the dial to wait for. It opens a
// second connection if this one is busy, or if all will accept only few more queries.
//
// The query is counted in the connection's load here, with the set locked: otherwise all queries of
// a burst would pick the same connection before the first of them is counted.
func (s *Set[C]) pick(ctx context.Context) (best C, d *pendingDial, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return best, nil, transport.ErrClosed
	}
	var none C
	open, fresh, least := 0, 0, 0
	for _, c := range s.list {
		if !c.Accepts() {
			continue
		}
		open++
		if !c.Tired() {
			fresh++
		}
		if load := c.Load(); best == none || load < least {
			best, least = c, load
		}
	}
	if best == none {
		if err := s.lastDialError(); s.dialing == nil && err != nil {
			return none, nil, err
		}
		return none, s.startDial(ctx), nil
	}
	busy := least >= BusyLoad && open < s.cfg.MaxConns
	if (busy || fresh == 0) && s.dialing == nil && s.lastDialError() == nil {
		s.startDial(ctx)
	}
	if least >= s.cfg.MaxInflight {
		return none, nil, transport.ErrOverloaded
	}
	best.Reserve()
	return best, nil, nil
}

// DialError returns the error of the latest dial if it failed a moment ago.
func (s *Set[C]) DialError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastDialError()
}

// lastDialError is [Set.DialError] with s.mu held.
func (s *Set[C]) lastDialError() error {
	if s.dialErr != nil && time.Since(s.dialErrAt) < dialPause {
		return s.dialErr
	}
	return nil
}

// Remove removes a connection that closed, and requests maintenance, which may open another. A
// server that refuses this client after the handshake counts as a failed dial, so that it is not
// dialled again at once.
func (s *Set[C]) Remove(c C, reason error) {
	var refused *transport.ClientCertError
	isRefused := errors.As(reason, &refused)
	if isRefused {
		s.cfg.Observer.DialFailed(c.Opened(), reason)
	}
	s.mu.Lock()
	if isRefused {
		s.dialErr, s.dialErrAt = &transport.DialError{Err: reason}, time.Now()
	}
	s.list = slices.DeleteFunc(s.list, func(x C) bool { return x == c })
	s.mu.Unlock()
	s.cfg.Log.Debug("connection closed", "server", s.cfg.Server.String(), "reason", reason)
	s.cfg.Observer.MaintenanceDue()
}

// Go runs f in the background, unless the set is closed. It reports whether it does. [Set.Wait]
// waits for it.
func (s *Set[C]) Go(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(f)
	}
	return !s.closed
}

// Reset closes all connections because the network changed, and forgets failures.
func (s *Set[C]) Reset() {
	s.mu.Lock()
	s.dialErr = nil
	s.mu.Unlock()
	s.closeAll(transport.ErrNetworkChanged)
}

// Close closes all connections, and the set to new ones. [Set.Wait] follows.
func (s *Set[C]) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closeAll(transport.ErrClosed)
}

// Wait waits until all connections of a closed set have ended, and what [Set.Go] runs.
func (s *Set[C]) Wait() { s.wg.Wait() }

// closeAll closes all connections and cancels the dial in progress.
func (s *Set[C]) closeAll(reason error) {
	s.mu.Lock()
	list, d := slices.Clone(s.list), s.dialing
	s.mu.Unlock()
	if d != nil {
		d.cancel(reason)
	}
	for _, c := range list {
		c.Close(reason)
	}
}

// Conns returns the connections that are open.
func (s *Set[C]) Conns() []C {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// AddStats adds the numbers of connections and of their queries.
func (s *Set[C]) AddStats(st *transport.Stats) {
	for _, c := range s.Conns() {
		st.Conns++
		st.InFlight += c.Load()
	}
}
