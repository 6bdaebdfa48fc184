// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

const (
	minFound  = time.Minute      // a prefix, or that there is none, is remembered for at least this long
	maxFound  = 24 * time.Hour   // and at most
	retryTime = 10 * time.Second // after a failure
)

// ipv4Only is the name whose IPv6 addresses show the prefix (RFC 7050 §2.2).
var ipv4Only = []byte("\x08ipv4only\x04arpa\x00")

// errRejected is the reply with an error code to the query for the prefix.
var errRejected = errors.New("the upstream does not answer the query for ipv4only.arpa")

// finder finds the prefix of a network (RFC 7050). The zero value with an upstream is usable.
type finder struct {
	up Upstream

	mu      sync.Mutex
	prefix  netip.Prefix // zero: there is none
	until   time.Time    // when it expires; zero: it is not known
	pending chan struct{}
	epoch   int // number of changes of the network
}

// find returns the prefix. Queries that arrive while it is looked for wait for the same result, at
// most until their own time. An expired prefix is used until its successor is known.
func (f *finder) find(ctx context.Context, until time.Time) (netip.Prefix, bool) {
	f.mu.Lock()
	if time.Now().Before(f.until) {
		defer f.mu.Unlock()
		return f.prefix, f.prefix.IsValid()
	}
	old := f.prefix
	done := f.pending
	if done == nil {
		done = make(chan struct{})
		f.pending = done
		go f.ask(context.WithoutCancel(ctx), until, done, f.epoch)
	}
	f.mu.Unlock()
	if old.IsValid() {
		return old, true
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.prefix, f.prefix.IsValid()
}

// ask asks the upstream, and closes done. It ends by the time until.
func (f *finder) ask(ctx context.Context, until time.Time, done chan struct{}, epoch int) {
	prefix, lifetime, err := discover(ctx, f.up, until)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == done {
		f.pending = nil
	}
	close(done)
	switch {
	case epoch != f.epoch: // of another network
	case err != nil:
		f.until = time.Now().Add(retryTime)
	default:
		f.prefix, f.until = prefix, time.Now().Add(lifetime)
	}
}

// known returns the prefix that was found last, or the zero prefix.
func (f *finder) known() netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.prefix
}

// forget forgets what was found.
func (f *finder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prefix, f.until, f.pending = netip.Prefix{}, time.Time{}, nil
	f.epoch++
}

// discover returns the prefix that the upstream's answers show, or the zero prefix, and how long
// that is valid.
func discover(ctx context.Context, up Upstream, until time.Time) (p netip.Prefix, lifetime time.Duration, err error) {
	q, err := newQuery(ipv4Only, wire.TypeAAAA, 0, false)
	if err != nil {
		return p, 0, err
	}
	msg, err := up.Exchange(ctx, q, until)
	if err != nil {
		return p, 0, err
	}
	reply, err := wire.ParseReply(msg)
	if err != nil {
		return p, 0, err
	}
	if reply.Rcode != wire.RcodeSuccess && reply.Rcode != wire.RcodeNXDomain {
		return p, 0, errRejected
	}
	lifetime = min(max(time.Duration(reply.TTL)*time.Second, minFound), maxFound)
	for rr := range wire.Records(reply.Msg) {
		if rr.Section == wire.SectionAnswer && rr.Type == wire.TypeAAAA && rr.End-rr.Data == 16 {
			if p, ok := FindPrefix(netip.AddrFrom16([16]byte(reply.Msg[rr.Data:rr.End]))); ok {
				return p, lifetime, nil
			}
		}
	}
	return netip.Prefix{}, lifetime, nil
}
