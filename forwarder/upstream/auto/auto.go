// SPDX-License-Identifier: Apache-2.0

package auto

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/upstream/transport"
)

// Order are the protocols that are tried, the best one first.
var Order = []transport.Protocol{transport.DoQ, transport.DoH3, transport.DoT, transport.DoH}

// Options are what a [Transport] is made from. All fields are required.
type Options struct {
	// New makes the transport of one protocol.
	New func(transport.Config) (transport.Transport, error)

	// Port returns the port of a protocol.
	Port func(transport.Protocol) uint16

	// Probe is a query that every server answers at once.
	Probe []byte
}

// unknown is the index of the protocol in use before the first trial succeeded.
const unknown = -1

// Transport is a [transport.Transport] that owns one for each protocol.
type Transport struct {
	cfg        transport.Config
	probe      []byte
	candidates []candidate // in the order of Order, without those that a proxy does not carry
	wg         sync.WaitGroup

	mu        sync.Mutex
	using     int    // index of the protocol in use, or unknown
	trial     *trial // nil if none is in progress
	tried     time.Time
	err       error         // of the latest trial, a DialError; nil if it succeeded
	retryAt   time.Time     // when better protocols are tried again
	retryWait time.Duration // the wait before that
	closed    bool
}

// candidate is one protocol.
type candidate struct {
	protocol transport.Protocol
	transport.Transport
}

var _ transport.Transport = (*Transport)(nil)

// New returns a Transport, which sends nothing before it is used, or the error of one of the
// protocols. The caller calls [Transport.Close].
func New(cfg transport.Config, o Options) (*Transport, error) {
	t := &Transport{cfg: cfg, probe: o.Probe, using: unknown}
	for _, p := range Order {
		if cfg.Proxy != nil && p.Network() == "UDP" {
			continue // a proxy carries TCP alone
		}
		child := cfg
		child.Server.Protocol = p
		child.Server.Addr = netip.AddrPortFrom(cfg.Server.Addr.Addr(), o.Port(p))
		child.Server.Also = nil
		for _, a := range cfg.Server.Also {
			child.Server.Also = append(child.Server.Also, netip.AddrPortFrom(a.Addr(), o.Port(p)))
		}
		if !p.HasPath() {
			child.Server.Path = ""
		}
		child.Observer = observer{cfg.Observer}
		made, err := o.New(child)
		if err != nil {
			t.Close()
			return nil, err
		}
		t.candidates = append(t.candidates, candidate{p, made})
	}
	return t, nil
}

// observer is the Observer of one protocol. That one cannot be used is not a failure of the
// server.
type observer struct{ transport.Observer }

// DialFailed implements [transport.Observer].
func (observer) DialFailed(time.Time, error) {}

// Exchange implements [transport.Transport]. A query that finds that the protocol in use does
// not work any more is sent again after a trial.
func (t *Transport) Exchange(ctx context.Context, query []byte, until time.Time, w transport.Waiter) ([]byte, error) {
	for again := false; ; again = true {
		n, err := t.choose(ctx, until, w)
		if err != nil {
			return nil, err
		}
		reply, err := t.candidates[n].Exchange(ctx, query, until, &watcher{w, t, n})
		if err == nil || err != errSwitched && (!t.handleFailure(n, err) || again) {
			return reply, err
		}
		if !time.Now().Before(until) {
			return nil, transport.ErrTimeout
		}
	}
}

// choose returns the protocol in use. If it is unknown, it waits for a trial.
func (t *Transport) choose(ctx context.Context, until time.Time, w transport.Waiter) (int, error) {
	for {
		n, tr, err := t.current(ctx, time.Now())
		if tr == nil {
			return n, err
		}
		if err := w.Wait(ctx, tr.done, time.Now(), until, nil); err != nil {
			return 0, err
		}
		if tr.err != nil && !errors.Is(tr.err, transport.ErrNetworkChanged) {
			return 0, tr.err
		}
	}
}

// current returns the protocol in use, the trial to wait for, or why there is neither.
func (t *Transport) current(ctx context.Context, now time.Time) (int, *trial, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return 0, nil, transport.ErrClosed
	case t.using != unknown:
		return t.using, nil, nil
	case t.trial == nil && t.err != nil && now.Sub(t.tried) < trialPause:
		return 0, nil, t.err
	}
	return 0, t.startTrial(ctx, len(t.candidates), now), nil
}

// handleFailure lets a trial decide again if an error means that the protocol n no longer
// works. It reports whether the query is to be sent again.
func (t *Transport) handleFailure(n int, err error) bool {
	if !transport.IsDial(err) && !errors.Is(err, transport.ErrSilent) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.using == n {
		t.using = unknown
	}
	return !t.closed
}

// Maintain implements [transport.Transport]. It also tries better protocols again.
func (t *Transport) Maintain(ctx context.Context, now time.Time, expected bool) {
	t.mu.Lock()
	using := t.using
	switch {
	case !expected || t.closed || t.trial != nil:
	case using == unknown && (t.err == nil || now.Sub(t.tried) >= doubtPause):
		t.startTrial(ctx, len(t.candidates), now)
	case using > 0 && !now.Before(t.retryAt):
		t.startTrial(ctx, using, now)
	}
	t.mu.Unlock()
	for i, c := range t.candidates {
		c.Maintain(ctx, now, expected && i == using)
	}
}

// Reset implements [transport.Transport]. Another network may block other protocols.
func (t *Transport) Reset() {
	t.mu.Lock()
	t.using, t.err, t.retryWait = unknown, nil, 0
	t.cancelTrial(transport.ErrNetworkChanged)
	t.mu.Unlock()
	for _, c := range t.candidates {
		c.Reset()
	}
}

// Close implements [transport.Transport].
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	t.cancelTrial(transport.ErrClosed)
	t.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range t.candidates {
		closing.Go(c.Close)
	}
	closing.Wait()
	t.wg.Wait()
}

// Stats implements [transport.Transport]: the sums of all protocols, and what is known of the
// connection of the one in use. The times to open connections are those of that one.
func (t *Transport) Stats() transport.Stats {
	t.mu.Lock()
	using := t.using
	t.mu.Unlock()
	var sum transport.Stats
	for i, c := range t.candidates {
		s := c.Stats()
		if i == using {
			sum.Using, sum.Opened, sum.Protocol = c.protocol.String(), s.Opened, s.Protocol
			sum.Unauthenticated, sum.CertExpiry = s.Unauthenticated, s.CertExpiry
		}
		sum.Conns += s.Conns
		sum.InFlight += s.InFlight
		sum.Late += s.Late
		sum.Resent += s.Resent
		sum.Lost += s.Lost
		sum.Strays += s.Strays
		sum.Writes += s.Writes
		sum.Dials += s.Dials
		sum.DialErrors += s.DialErrors
		sum.Resumed += s.Resumed
	}
	return sum
}
