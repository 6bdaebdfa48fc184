// SPDX-License-Identifier: Apache-2.0

package original

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// fallbackTime is the time that a query leaves for the fallback, unless the nameserver answered lately.
	fallbackTime = 2 * time.Second

	// minFallback is the least time for which the fallback is asked.
	minFallback = 50 * time.Millisecond

	// aliveTime is how long after a reply a nameserver gets all the time of a query: a name may
	// take long, and the fallback is another resolver.
	aliveTime = 10 * time.Second

	// maxFailed is the number of queries in a row that fail before the nameserver counts as down.
	maxFailed = 2
)

var (
	errDiscovering = errors.New("it is not known yet whether it offers an encrypted transport")
	errClosed      = errors.New("too many nameservers are in use")
)

// Nameserver answers the queries of clients that asked one nameserver. It implements
// forwarder.Exchanger and forwarder.Identified.
type Nameserver struct {
	u     *Upstream
	addr  netip.AddrPort
	scope string
	x     Wrapped // around exchange

	lastUse   atomic.Int64  // of exchange, in Unix nanoseconds
	queries   atomic.Uint64 // of clients, that the cache did not answer
	fallbacks atomic.Uint64 // of those, the ones that the fallback got

	mu       sync.Mutex
	closed   bool // it was removed: queries go to the fallback
	found    *found
	group    *openGroup    // of found; nil while there are no queries
	replaced []*openGroup  // of servers found before, while they have queries in flight
	pending  chan struct{} // closed when the discovery in progress ends; nil if there is none
	attempts int           // failed discoveries in a row
	failed   int           // failed queries in a row
	lastGood time.Time     // latest reply
	retryAt  time.Time     // without found: the earliest time of the next discovery
	err      error         // without found: why
	epoch    int           // number of changes of the network
}

// openGroup is a group that runs.
type openGroup struct {
	*upstream.Group
	stop   context.CancelFunc
	active int // queries in flight; guarded by Nameserver.mu
}

func newNameserver(u *Upstream, addr netip.AddrPort) *Nameserver {
	n := &Nameserver{u: u, addr: addr, scope: u.scope(addr)}
	n.x = Wrapped{Exchanger: servers{n}}
	if u.cfg.Wrap != nil {
		n.x = u.cfg.Wrap(n.x.Exchanger)
	}
	return n
}

// Timeout implements forwarder.Patient.
func (n *Nameserver) Timeout() time.Duration { return n.u.Timeout() }

// Scope is that of its answers, see forwarder.Route.
func (n *Nameserver) Scope() string { return n.scope }

// Identity implements forwarder.Identified. The address is part of the scope.
func (n *Nameserver) Identity() string { return n.u.cfg.Identity }

// Exchange implements forwarder.Exchanger.
func (n *Nameserver) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	n.queries.Add(1)
	return n.x.Exchange(ctx, query, until)
}

// servers sends queries to the group of a Nameserver, or to the fallback.
type servers struct{ n *Nameserver }

// Exchange asks the nameserver or else the fallback.
func (s servers) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	n := s.n
	n.lastUse.Store(time.Now().UnixNano())
	group, end, err := n.acquire(ctx, until)
	if err == nil {
		var reply []byte
		reply, err = group.Exchange(ctx, query, end)
		n.release(group, err)
		if err == nil {
			return reply, nil
		}
	}
	fallback := n.u.cfg.Fallback
	if fallback == nil || ctx.Err() != nil || time.Until(until) < minFallback {
		return nil, n.explain(err)
	}
	n.fallbacks.Add(1)
	return fallback.Exchange(ctx, query, until)
}

// explain returns an error for clients.
func (n *Nameserver) explain(err error) error {
	var explained *transport.Error
	if errors.As(err, &explained) {
		return explained
	}
	reason := err.Error()
	if n.u.cfg.Fallback == nil {
		reason += ": no group is configured in its place (original-fallback)"
	}
	return &transport.Error{Server: "nameserver " + n.addr.Addr().String(), Code: wire.EDENetworkError, Reason: reason}
}

// acquire returns the group for a query, and until when that may take. The caller releases it. It
// waits for a discovery in progress, unless the nameserver is known to offer nothing.
func (n *Nameserver) acquire(ctx context.Context, until time.Time) (g *openGroup, end time.Time, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.found == nil && !n.closed && !time.Now().Before(n.retryAt) {
		done := n.discover()
		if n.err == nil || n.u.cfg.Fallback == nil {
			n.mu.Unlock()
			waited := n.wait(ctx, done, until)
			n.mu.Lock()
			if !waited {
				return nil, end, errDiscovering
			}
		}
	}
	switch {
	case n.closed:
		return nil, end, errClosed
	case n.found == nil && n.err == nil:
		return nil, end, errDiscovering // the network changed meanwhile
	case n.found == nil:
		return nil, end, n.err
	}
	now := time.Now()
	if n.found.expired(now) {
		n.discover()
	}
	if n.group == nil {
		if n.group, err = n.u.open(n.found.server, nil); err != nil {
			return nil, end, err
		}
	}
	n.group.active++
	if end = until; n.u.cfg.Fallback != nil && now.Sub(n.lastGood) > aliveTime {
		end = now.Add(max(until.Sub(now)-fallbackTime, until.Sub(now)/2))
	}
	return n.group, end, nil
}

// wait waits for the end of a discovery, and leaves time for the fallback.
func (n *Nameserver) wait(ctx context.Context, done <-chan struct{}, until time.Time) bool {
	left := time.Until(until)
	if n.u.cfg.Fallback != nil {
		left = min(left-fallbackTime, left/2)
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// release records the result of a query. If several in a row have failed, the fallback gets those
// that follow until the nameserver answers again.
func (n *Nameserver) release(g *openGroup, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g.active--
	if n.group != g { // it was closed, or another server was found
		n.closeReplaced(g)
		return
	}
	switch {
	case err == nil:
		n.failed, n.lastGood = 0, time.Now()
		return
	case errors.Is(err, context.Canceled), errors.Is(err, transport.ErrSlowName), errors.Is(err, transport.ErrOverloaded), errors.Is(err, transport.ErrClosed):
		return
	}
	if n.failed++; n.failed < maxFailed || n.u.cfg.Fallback == nil {
		return
	}
	n.drop()
	n.found, n.failed, n.err = nil, 0, fmt.Errorf("it does not answer any more: %w", err)
	n.retryAt = time.Now().Add(backoff(n.attempts))
	n.attempts++
}

// drop closes the group. Queries in flight fail. n.mu is held.
func (n *Nameserver) drop() {
	if n.group != nil {
		n.u.closeGroup(n.group)
		n.group = nil
	}
}

// replace makes g the group. The one before it is closed when its queries have ended. n.mu is held.
func (n *Nameserver) replace(g *openGroup) {
	if old := n.group; old != nil {
		n.replaced = append(n.replaced, old)
		n.closeReplaced(old)
	}
	n.group = g
}

// closeReplaced closes g if it was replaced and has no queries in flight. n.mu is held.
func (n *Nameserver) closeReplaced(g *openGroup) {
	if i := slices.Index(n.replaced, g); i >= 0 && g.active == 0 {
		n.replaced = slices.Delete(n.replaced, i, i+1)
		n.u.closeGroup(g)
	}
}

// busy reports whether there are queries in flight. n.mu is held.
func (n *Nameserver) busy() bool {
	return len(n.replaced) > 0 || n.group != nil && n.group.active > 0
}

// closeGroup closes the group if it has no queries in flight.
func (n *Nameserver) closeGroup() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.busy() {
		n.drop()
	}
}

// close closes the group for good. Unless force is set, it reports false if there are queries in
// flight, or a discovery is in progress.
func (n *Nameserver) close(force bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !force && (n.busy() || n.pending != nil) {
		return false
	}
	n.closed = true
	n.drop()
	for _, g := range n.replaced {
		n.u.closeGroup(g)
	}
	n.replaced = nil
	return true
}

// networkChanged forgets failures.
func (n *Nameserver) networkChanged() {
	n.mu.Lock()
	n.epoch++
	n.attempts, n.failed, n.retryAt, n.lastGood = 0, 0, time.Time{}, time.Time{}
	if n.found == nil {
		n.err = nil
	}
	if n.group != nil {
		n.group.NetworkChanged()
	}
	for _, g := range n.replaced {
		g.NetworkChanged()
	}
	n.mu.Unlock()
	call(n.x.Changed)
}
