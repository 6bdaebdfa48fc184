// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sotto/forwarder/upstream/transport"
)

const (
	// minTTL limits how often a name is resolved.
	minTTL = time.Minute

	// maxTTL bounds how long a server that moved before its TTL passed is not found.
	maxTTL = time.Hour

	// minRetry and maxRetry limit the time after which a failed resolution is repeated: it
	// doubles with each failure. With an address, maxRetry applies from the start.
	minRetry = time.Second
	maxRetry = 30 * time.Second

	// expireInterval limits how often [Name.Expire] has an effect.
	expireInterval = 10 * time.Second

	// maxAddrs limits the addresses of a server, because all of them are raced.
	maxAddrs = 16
)

// errNoAddress means that a name exists without an address, or does not exist.
var errNoAddress = errors.New("the name has no address")

// Config configures a [Name]. All fields are required.
type Config struct {
	// Name is the host name, in lower case and without a dot at its end.
	Name string

	// Ask sends a query to an encrypted server whose address is known, and returns its reply.
	Ask func(ctx context.Context, query []byte) ([]byte, error)

	// Spawn runs a function in a goroutine. It reports false if the owner is closed.
	Spawn func(func()) bool

	// Timeout limits one resolution.
	Timeout time.Duration

	Log *slog.Logger
}

// Name is a host name and what it resolves to. Its methods are safe for concurrent use.
type Name struct {
	cfg Config

	mu       sync.Mutex
	addrs    []netip.Addr // the last known ones; nil if none are
	due      time.Time    // when it is resolved again
	pending  *resolution  // nil if none is in progress
	err      error        // of the latest resolution
	failures int          // in a row
	expired  time.Time    // when Expire last had an effect
}

// resolution is one in progress. addrs and err are set before done is closed.
type resolution struct {
	done  chan struct{}
	addrs []netip.Addr
	err   error
	again bool // the network changed meanwhile
}

// New returns a Name, which is not resolved before it is used.
func New(cfg Config) *Name { return &Name{cfg: cfg} }

// Lookup returns the addresses, which the caller does not change. It waits only if none are
// known yet, at most until ctx is canceled. The error is a [transport.LookupError].
func (n *Name) Lookup(ctx context.Context) ([]netip.Addr, error) {
	addrs, r, err := n.current(ctx, time.Now())
	if r == nil {
		return addrs, err
	}
	select {
	case <-r.done:
		return r.addrs, r.err
	case <-ctx.Done():
		return nil, &transport.LookupError{Name: n.cfg.Name, Err: ctx.Err()}
	}
}

// current returns the known addresses, the resolution to wait for, or why there is neither.
func (n *Name) current(ctx context.Context, now time.Time) ([]netip.Addr, *resolution, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !now.Before(n.due) {
		n.start(ctx)
	}
	switch {
	case len(n.addrs) > 0:
		return n.addrs, nil, nil
	case n.pending != nil:
		return nil, n.pending, nil
	}
	return nil, nil, &transport.LookupError{Name: n.cfg.Name, Err: n.err}
}

// Refresh resolves the name in the background if it is time to.
func (n *Name) Refresh(ctx context.Context, now time.Time) {
	_, _, _ = n.current(ctx, now) // the result is not needed
}

// Expire lets the name be resolved again before its TTL has passed, because the server was
// not reached. It has an effect at most every ten seconds.
func (n *Name) Expire(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.addrs) > 0 && n.failures == 0 && now.Sub(n.expired) >= expireInterval {
		n.expired, n.due = now, now
	}
}

// NetworkChanged lets the name be resolved again: the addresses may depend on the network.
func (n *Name) NetworkChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.due, n.failures = time.Time{}, 0
	if n.pending != nil {
		n.pending.again = true
	}
}

// Addrs returns the known addresses, sorted.
func (n *Name) Addrs() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addrs
}

// start resolves the name in the background. n.mu is held.
func (n *Name) start(ctx context.Context) {
	if n.pending != nil {
		return
	}
	r := &resolution{done: make(chan struct{})}
	ctx = context.WithoutCancel(ctx)
	if !n.cfg.Spawn(func() {
		defer close(r.done)
		n.resolve(ctx, r)
	}) {
		n.err = transport.ErrClosed
		return
	}
	n.pending = r
}

// resolve asks for both address families and records the result.
func (n *Name) resolve(ctx context.Context, r *resolution) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Timeout)
	defer cancel()
	var results [2]answer
	var wg sync.WaitGroup
	for i, qtype := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA} {
		wg.Go(func() { results[i] = n.ask(ctx, qtype) })
	}
	wg.Wait()
	addrs, ttl, err := merge(results[0], results[1])
	n.record(r, addrs, ttl, err, time.Now())
}

// answer is what one query returned.
type answer struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

func (n *Name) ask(ctx context.Context, qtype dnsmessage.Type) (a answer) {
	var query, reply []byte
	if query, a.err = appendQuery(n.cfg.Name, qtype); a.err != nil {
		return a
	}
	if reply, a.err = n.cfg.Ask(ctx, query); a.err != nil {
		return a
	}
	a.addrs, a.ttl, a.err = parseReply(n.cfg.Name, reply)
	return a
}

// merge combines the answers for both families. One of them is sufficient.
func merge(a, b answer) (addrs []netip.Addr, ttl time.Duration, err error) {
	addrs = slices.Concat(a.addrs, b.addrs)
	switch {
	case len(addrs) == 0 && a.err != nil:
		return nil, 0, a.err
	case len(addrs) == 0 && b.err != nil:
		return nil, 0, b.err
	case len(addrs) == 0:
		return nil, 0, errNoAddress
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxAddrs)], min(max(min(a.ttlOr(maxTTL), b.ttlOr(maxTTL)), minTTL), maxTTL), nil
}

// ttlOr returns the TTL of the addresses, or other if there are none. A family that could not
// be asked is asked again soon.
func (a *answer) ttlOr(other time.Duration) time.Duration {
	switch {
	case a.err != nil:
		return minTTL
	case len(a.addrs) == 0:
		return other
	}
	return a.ttl
}

// record sets the result of a resolution.
func (n *Name) record(r *resolution, addrs []netip.Addr, ttl time.Duration, err error, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending, n.err = nil, err
	if err != nil {
		wait := maxRetry
		if len(n.addrs) == 0 {
			wait = min(minRetry<<min(n.failures, 10), maxRetry)
		}
		n.failures++
		n.due = now.Add(wait)
		n.cfg.Log.Debug("name of an upstream not resolved", "name", n.cfg.Name, "reason", err, "addresses", n.addrs)
	} else {
		n.failures, n.due = 0, now.Add(ttl)
		if !slices.Equal(addrs, n.addrs) {
			n.cfg.Log.Debug("name of an upstream resolved", "name", n.cfg.Name, "addresses", addrs, "before", n.addrs, "ttl", ttl)
			n.addrs = addrs
		}
	}
	if r.again {
		n.due = now
	}
	if r.addrs = n.addrs; len(n.addrs) == 0 {
		r.err = &transport.LookupError{Name: n.cfg.Name, Err: err}
	}
}
