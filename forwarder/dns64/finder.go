// SPDX-License-Identifier: Apache-2.0

package dns64

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"sotto/forwarder/wire"
)

const (
	minFound = time.Minute    // a prefix, or that there is none, is remembered for at least this long
	maxFound = 24 * time.Hour // and at most

	// retryTime is for a failure. Queries that need the prefix fail in that time, so it is the
	// shortest one that RFC 9520 §3.2 allows.
	retryTime = time.Second
)

// ipv4Only is the name whose IPv6 addresses show the prefix (RFC 7050 §2.2).
var ipv4Only = []byte("\x08ipv4only\x04arpa\x00")

// errNotFound means that a query needs the prefix, and that it is not known whether there is one.
// Such a query fails: a negative answer would be cached.
var errNotFound = errors.New("find the prefix of NAT64 by ipv4only.arpa")

// rejectedError is the reply to the query for the prefix that has an error code, or is truncated.
type rejectedError struct{ rcode uint16 }

func (e *rejectedError) Error() string {
	return "the upstream does not answer: " + wire.RcodeName(e.rcode)
}

// EDE returns the error as clients receive it.
func (e *rejectedError) EDE() wire.EDE {
	return wire.EDE{Code: wire.EDENetworkError, Text: errNotFound.Error() + ": " + e.Error()}
}

// finder finds the prefix of a network (RFC 7050). The zero value with an upstream is usable.
type finder struct {
	up Upstream

	mu      sync.Mutex
	known   bool          // prefix was found
	prefix  netip.Prefix  // zero: there is none
	err     error         // of the last look-up
	until   time.Time     // when the result expires; zero: there was no look-up
	pending chan struct{} // of the look-up in flight; closed when it ends or is forgotten
	epoch   int           // number of changes of the network
}

// find returns the prefix, or the zero prefix if there is none. Queries that arrive while it is
// looked for wait for the same result, at most until their own time. After a change of the network
// they wait for the prefix of the new one. An expired prefix is used until its successor is known,
// and that there is none if the look-up fails. In other cases of failure find returns an error.
func (f *finder) find(ctx context.Context, until time.Time) (netip.Prefix, error) {
	for {
		f.mu.Lock()
		if time.Now().Before(f.until) {
			defer f.mu.Unlock()
			return f.result()
		}
		old, epoch := f.prefix, f.epoch
		done := f.pending
		if done == nil {
			done = make(chan struct{})
			f.pending = done
			go f.ask(context.WithoutCancel(ctx), until, done)
		}
		f.mu.Unlock()
		if old.IsValid() {
			return old, nil
		}
		inTime := wait(ctx, until, done)
		f.mu.Lock()
		if !inTime || epoch == f.epoch {
			defer f.mu.Unlock()
			return f.result()
		}
		f.mu.Unlock()
	}
}

// wait reports whether done is closed before the time until, and before ctx ends.
func wait(ctx context.Context, until time.Time, done <-chan struct{}) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-done:
		return ctx.Err() == nil && time.Now().Before(until)
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// result returns what is known. The caller has locked f.
func (f *finder) result() (netip.Prefix, error) {
	switch {
	case f.known:
		return f.prefix, nil
	case f.err != nil:
		return netip.Prefix{}, fmt.Errorf("%w: %w", errNotFound, f.err)
	}
	return netip.Prefix{}, fmt.Errorf("%w: %w", errNotFound, context.DeadlineExceeded)
}

// ask asks the upstream, and closes done, unless the network has changed meanwhile. It ends by the
// time until.
func (f *finder) ask(ctx context.Context, until time.Time, done chan struct{}) {
	prefix, lifetime, err := discover(ctx, f.up, until)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending != done { // of another network
		return
	}
	f.pending = nil
	close(done)
	if err != nil {
		f.err, f.until = err, time.Now().Add(retryTime)
		return
	}
	f.known, f.prefix, f.err, f.until = true, prefix, nil, time.Now().Add(lifetime)
}

// forget forgets what was found, and the look-up in flight.
func (f *finder) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending != nil {
		close(f.pending)
	}
	f.known, f.prefix, f.err, f.until, f.pending = false, netip.Prefix{}, nil, time.Time{}, nil
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
	if reply.TC || reply.Rcode != wire.RcodeSuccess && reply.Rcode != wire.RcodeNXDomain {
		return p, 0, &rejectedError{reply.Rcode}
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
