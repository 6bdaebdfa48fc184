// SPDX-License-Identifier: Apache-2.0

package original

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"sotto/forwarder/upstream"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// probeTime limits the attempt to use one server; a query waits for less.
	probeTime = 3 * time.Second

	// askTime limits the query for designated servers, which is sent again if a packet is lost.
	askTime = 2 * time.Second

	minBackoff = 30 * time.Second
	maxBackoff = 30 * time.Minute
)

// errNone is the result if no way to find a server applies.
var errNone = errors.New("it is no known public resolver")

// errRejected is the reply with an error code to the query for the root.
var errRejected = errors.New("its server with an encrypted transport does not answer the query for the root")

// backoff returns how long after so many failed discoveries the next one is made.
func backoff(attempts int) time.Duration { return min(minBackoff<<min(attempts, 10), maxBackoff) }

// found is a server that a nameserver offers.
type found struct {
	how      string // "known", "tls" or "ddr"
	server   upstream.Server
	priority uint16    // of a designated server; the least is the best
	expires  time.Time // zero: never
}

// same reports whether both are the same server, with the same addresses in any order.
func (f *found) same(o *found) bool {
	a, b := f.server.Addrs(), o.server.Addrs()
	slices.SortFunc(a, netip.AddrPort.Compare)
	slices.SortFunc(b, netip.AddrPort.Compare)
	return f.how == o.how && f.server.Protocol == o.server.Protocol && f.server.Name == o.server.Name && f.server.Path == o.server.Path &&
		slices.Equal(a, b)
}

func (f *found) expired(now time.Time) bool { return !f.expires.IsZero() && now.After(f.expires) }

// discover starts a discovery, or returns the one in progress. n.mu is held.
func (n *Nameserver) discover() <-chan struct{} {
	if n.pending != nil {
		return n.pending
	}
	done := make(chan struct{})
	n.pending = done
	epoch := n.epoch
	if !n.u.spawn(func() { n.finish(done, epoch) }) {
		n.pending = nil
		close(done)
	}
	return done
}

// finish runs a discovery and records the result.
func (n *Nameserver) finish(done chan struct{}, epoch int) {
	n.mu.Lock()
	current := n.found
	n.mu.Unlock()
	f, group, err := n.u.find(n.u.ctx, n.addr, current)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = nil
	close(done)
	if err == nil && !n.closed {
		if n.found == nil || !n.found.same(f) {
			n.replace(group)
			group = nil
		}
		n.found, n.err, n.attempts, n.lastGood = f, nil, 0, time.Now()
	}
	if group != nil {
		n.u.closeGroup(group)
	}
	if err == nil || n.closed || epoch != n.epoch {
		return // after a change of the network the failure has no meaning
	}
	if n.found != nil { // it has expired, and its successor is not known: keep it for a while
		n.found.expires = time.Now().Add(minBackoff)
		return
	}
	n.err = err
	n.retryAt = time.Now().Add(backoff(n.attempts))
	n.attempts++
}

// find looks for a server of a nameserver; current is the one in use, or nil. The group is one for
// that server, which runs; the caller closes it.
func (u *Upstream) find(ctx context.Context, nameserver netip.AddrPort, current *found) (*found, *openGroup, error) {
	candidates, err := u.candidates(ctx, nameserver)
	preferCurrent(candidates, current)
	for i := range candidates {
		group, e := u.probe(ctx, candidates[i].server)
		if e == nil {
			return &candidates[i], group, nil
		}
		err = errors.Join(err, e)
	}
	return nil, nil, err
}

// preferCurrent moves the server in use before the other candidates of its priority: servers of the
// same priority may be listed in another order each time.
func preferCurrent(list []found, current *found) {
	if current == nil {
		return
	}
	i := slices.IndexFunc(list, func(f found) bool { return f.same(current) })
	if i < 0 {
		return
	}
	kept := list[i]
	kept.server = current.server // with its order of addresses
	for ; i > 0 && list[i-1].how == kept.how && list[i-1].priority == kept.priority; i-- {
		list[i] = list[i-1]
	}
	list[i] = kept
}

// candidates returns the servers to be tried, the best first, or why there are none.
func (u *Upstream) candidates(ctx context.Context, nameserver netip.AddrPort) (list []found, err error) {
	a := nameserver.Addr()
	switch {
	case nameserver.Port() != plainPort:
		return nil, fmt.Errorf("it is asked on port %d, not 53", nameserver.Port())
	case !a.IsValid(), a.IsLoopback() && !u.cfg.loopback, a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return nil, errors.New("its address has a meaning only where the client is")
	}
	if s, ok := u.cfg.known(a); ok {
		return []found{{how: "known", server: s}}, nil
	}
	err = errNone
	if u.cfg.Discovery >= WithDDR {
		var designated []found
		if designated, err = u.designated(ctx, nameserver); len(designated) > 0 {
			err = nil
		}
		list = append(list, designated...)
	}
	if u.cfg.Discovery >= WithTLS {
		list, err = append(list, found{how: "tls", server: upstream.Server{Addr: netip.AddrPortFrom(a, u.cfg.port)}}), nil
	}
	return list, err
}

// designated asks a nameserver in plain DNS for the servers that it designates (RFC 9462 §4).
func (u *Upstream) designated(ctx context.Context, nameserver netip.AddrPort) ([]found, error) {
	now := time.Now()
	msg, err := u.cfg.Ask(ctx, nameserver, ddrQuery, now.Add(askTime))
	if err != nil {
		return nil, fmt.Errorf("it does not say which servers it designates: %w", err)
	}
	list, ttl, err := parseDesignated(nameserver.Addr(), msg)
	for i := range list {
		list[i].expires = now.Add(ttl)
	}
	return list, err
}

// probe opens a group for a server, and keeps it if the server answers.
func (u *Upstream) probe(ctx context.Context, s upstream.Server) (*openGroup, error) {
	var report atomic.Bool
	g, err := u.open(s, &report)
	if err != nil {
		return nil, err
	}
	reply, err := g.Exchange(ctx, rootQuery, time.Now().Add(probeTime))
	if err == nil && wire.Rcode(reply) != wire.RcodeSuccess {
		err = fmt.Errorf("%w (%s)", errRejected, wire.RcodeName(wire.Rcode(reply)))
	}
	if err != nil {
		g.stop()
		var e *transport.Error
		if errors.As(err, &e) {
			err = fmt.Errorf("%s: %s", e.Server, e.Reason)
		}
		return nil, errors.Join(err, g.Group.Close())
	}
	report.Store(true)
	return g, nil
}

// open creates a group for one server and runs it. Nothing is logged before report is set; nil: at
// once.
func (u *Upstream) open(s upstream.Server, report *atomic.Bool) (*openGroup, error) {
	cfg := u.cfg.Group
	cfg.Servers = []upstream.Server{s}
	if report != nil && cfg.Log != nil {
		cfg.Log = slog.New(&quietHandler{cfg.Log.Handler(), report})
	}
	g, err := upstream.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(u.ctx)
	if !u.spawn(func() { _ = g.Run(ctx) }) {
		stop()
		return nil, errors.Join(transport.ErrClosed, g.Close())
	}
	return &openGroup{Group: g, stop: stop}, nil
}

// quietHandler passes records on once report is set: that a server which a nameserver might have
// does not exist is nothing to log.
type quietHandler struct {
	slog.Handler
	report *atomic.Bool
}

func (h *quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.report.Load() && h.Handler.Enabled(ctx, level)
}

func (h *quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &quietHandler{h.Handler.WithAttrs(attrs), h.report}
}

func (h *quietHandler) WithGroup(name string) slog.Handler {
	return &quietHandler{h.Handler.WithGroup(name), h.report}
}

// rootQuery asks for the name servers of the root, which every resolver knows.
var rootQuery = mustQuery([]byte{0}, wire.TypeNS)

func mustQuery(name []byte, typ uint16) []byte {
	msg := append([]byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, name...)
	q, err := wire.ParseQuery(append(msg, byte(typ>>8), byte(typ), 0, byte(wire.ClassIN)))
	if err != nil {
		panic(err)
	}
	return wire.AppendQuery(nil, &q)
}
