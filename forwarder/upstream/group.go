// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"sotto/forwarder/wire"
)

const (
	// roundPause lies between two rounds through the servers; it is longer than
	// dialPause, so that the next round really dials.
	roundPause = 300 * time.Millisecond

	// restartTime is how long a server that was well may be away before its
	// queries no longer wait for it. A resolver that is restarted under load
	// is back within it.
	restartTime = 3 * time.Second

	// minAttempt is what has to be left of the time to ask another server.
	minAttempt = 20 * time.Millisecond

	// maxBad is how many servers may say SERVFAIL, REFUSED or the like before
	// that is the answer: what fails at three services is the name's own fault.
	maxBad = 3
)

// Group is a list of servers. Its methods are safe for concurrent use.
type Group struct {
	cfg       Config
	log       *slog.Logger
	endpoints []*endpoint
	kick      chan struct{}  // the warm keeper has something to look at
	wg        sync.WaitGroup // dials and connections
}

// New returns a Group, which opens no connection before it is asked or run. The
// caller calls [Group.Close].
func New(cfg Config) (*Group, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, log: cfg.Log, kick: make(chan struct{}, 1)}
	for _, s := range cfg.Servers {
		g.endpoints = append(g.endpoints, newEndpoint(g, s))
	}
	return g, nil
}

// Exchange sends a whole DNS query, whose ID does not matter, to one server after
// the other until one has an answer, and returns the whole reply, whose ID is 0,
// whose question is the query's but for its case, and which is the caller's. A
// reply with an error code (SERVFAIL, REFUSED, …) is given only if no other
// server does better. Without any reply the error is an [*Error]. It returns by
// the time until, or [Config.Timeout] from now, if that is sooner. The query is not
// kept.
func (g *Group) Exchange(ctx context.Context, query []byte, until time.Time) ([]byte, error) {
	if len(query) < wire.HeaderLen || len(query) > wire.MaxMessage {
		return nil, &Error{Reason: errBadQuery.Error(), causes: []error{errBadQuery}}
	}
	deadline := time.Now().Add(g.cfg.Timeout)
	if until.Before(deadline) {
		deadline = until
	}
	x := exchange{g: g, query: query, deadline: deadline}
	for ; x.rounds == 0 || x.pause(ctx); x.rounds++ {
		x.hope = false
		if reply := x.round(ctx); reply != nil {
			return reply, nil
		}
		if x.bad != nil {
			return x.bad, nil
		}
	}
	return nil, join(x.errs)
}

// exchange is one query on its way through the servers.
type exchange struct {
	g        *Group
	query    []byte
	deadline time.Time

	bad     []byte   // the first reply with an error code
	badFrom []string // the names of the servers that sent such
	errs    []*Error // at most one a server

	rounds int  // gone through
	hope   bool // the latest round says that another one may help
}

// round asks every server once, in the order of [failover]. It returns a good reply,
// or nil. Another address of a service that gave an error code probably says
// the same: it is asked after the rest.
func (x *exchange) round(ctx context.Context) []byte {
	var orderRoom [16]int
	var serverRoom [16]candidate
	servers := serverRoom[:0]
	for _, e := range x.g.endpoints {
		servers = append(servers, candidate{until: e.resting.Load()})
	}
	order := failover(orderRoom[:0], servers, time.Now().UnixNano())
	var later []int
	for i, n := range order {
		if x.knows(x.g.endpoints[n].server.Name) {
			later = append(later, n)
			continue
		}
		if reply, done := x.visit(ctx, n, len(order)-i+len(later), i == 0); done {
			return reply
		}
	}
	for i, n := range later {
		if reply, done := x.visit(ctx, n, len(later)-i, false); done {
			return reply
		}
	}
	return nil
}

// visit asks one server while that many are left, this one included. Done: the
// round is over, with a good reply or without any.
func (x *exchange) visit(ctx context.Context, n, left int, first bool) (reply []byte, done bool) {
	e := x.g.endpoints[n]
	began := time.Now()
	remaining := x.deadline.Sub(began)
	if !first && remaining < minAttempt {
		return nil, true
	}
	reply, err := e.ask(ctx, x.query, began.Add(x.share(remaining, left)))
	switch {
	case err != nil:
		x.note(newError(e.server, time.Since(began), err))
		x.hope = x.hope || mayPass(err) && (x.rounds == 0 || e.restarting(time.Now()))
		return nil, ctx.Err() != nil || errors.Is(err, ErrClosed)
	case !isBad(reply):
		return reply, true
	case x.bad == nil:
		x.bad = reply
	}
	x.badFrom = append(x.badFrom, e.server.Name)
	return nil, len(x.badFrom) >= maxBad
}

// note keeps an error for each server: the latest one, unless that only says
// that there was no more time.
func (x *exchange) note(err *Error) {
	for i, old := range x.errs {
		if old.Server == err.Server {
			if err.Code != wire.EDENoReachableAuthority {
				x.errs[i] = err
			}
			return
		}
	}
	x.errs = append(x.errs, err)
}

// share is how long the next server gets: all that is left if it is the last,
// otherwise so much that two more can be asked.
func (x *exchange) share(left time.Duration, servers int) time.Duration {
	if servers == 1 {
		return left
	}
	return min(x.g.cfg.AttemptTimeout, left/time.Duration(min(servers, 3)))
}

// knows reports whether a server of that name gave an error code already.
func (x *exchange) knows(name string) bool {
	return name != "" && slices.Contains(x.badFrom, name)
}

// pause waits between two rounds. Not true: another one cannot help, or comes
// too late.
func (x *exchange) pause(ctx context.Context) bool {
	if !x.hope || time.Until(x.deadline) < roundPause+minAttempt {
		return false
	}
	t := time.NewTimer(roundPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mayPass reports whether an error is of the kind that a restarting server
// causes. One with a bad certificate, or without a route, is as bad a moment
// later.
func mayPass(err error) bool {
	return isLost(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		isDial(err) && errors.Is(err, io.EOF)
}

// isBad reports whether a reply's code says that the server could not, or would
// not, answer. YXDOMAIN is an answer: of a DNAME whose target is too long (RFC
// 6672 §2.2).
func isBad(reply []byte) bool {
	switch wire.Rcode(reply) {
	case wire.RcodeSuccess, wire.RcodeNXDomain, wire.RcodeYXDomain:
		return false
	}
	return true
}

// NetworkChanged tells that addresses or routes are not what they were: failures
// are forgotten and connections closed, since they may be bound to an address
// that is gone. Queries in flight are sent again.
func (g *Group) NetworkChanged() {
	for _, e := range g.endpoints {
		e.reset()
	}
	g.nudge()
}

// Stats is the Group at a glance.
func (g *Group) Stats() Stats {
	now := time.Now()
	var s Stats
	for _, e := range g.endpoints {
		s.Servers = append(s.Servers, e.stats(now))
	}
	return s
}

// Close ends every connection, with the queries in flight, and waits for that.
// It is safe to call more than once.
func (g *Group) Close() error {
	for _, e := range g.endpoints {
		e.link.close()
	}
	g.wg.Wait()
	return nil
}
