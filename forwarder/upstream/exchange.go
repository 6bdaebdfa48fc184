// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
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

// exchange is one query on its way through the servers. It belongs to the
// goroutine that called [Group.Exchange], in which one attempt runs, the one in
// the foreground; attempts beside it (race.go) are rare.
type exchange struct {
	waiter
	g        *Group
	query    []byte
	deadline time.Time

	servers []candidate // as they were when the round began
	order   []int       // the servers of this round that were not asked yet, the best first
	asked   int         // how many were, in this round

	good    []byte   // the reply
	bad     []byte   // the first reply with an error code
	badFrom []string // the names of the servers that sent such
	errs    []*Error // at most one a server
	over    bool     // nothing else is to be asked

	rounds int  // gone through
	hope   bool // the latest round says that another one may help

	race

	serverRoom [8]candidate
	orderRoom  [8]int
}

// exchanges are reused: a miss then costs no timer.
var exchanges = sync.Pool{New: func() any {
	x := &exchange{waiter: waiter{timer: newTimer()}}
	x.waiter.x = x
	return x
}}

// release gives x back for reuse, and ends the attempts beside it.
func (x *exchange) release() {
	x.timer.Stop()
	if x.cancel != nil {
		x.cancel()
	}
	x.g, x.query, x.servers, x.order, x.asked = nil, nil, nil, nil, 0
	x.good, x.bad, x.badFrom, x.errs, x.over = nil, nil, nil, nil, false
	x.rounds, x.hope, x.race = 0, false, race{}
	exchanges.Put(x)
}

// run goes through the servers until one has an answer.
func (x *exchange) run(ctx context.Context, now time.Time) ([]byte, error) {
	for {
		x.hope = false
		x.round(ctx, now)
		if x.good != nil {
			return x.good, nil
		}
		if x.bad != nil {
			return x.bad, nil
		}
		if !x.pause(ctx) {
			return nil, join(x.errs)
		}
		x.rounds++
		now = time.Now()
	}
}

// round asks every server once, in the order of the policy, until there is a
// good reply. Another address of a service that gave an error code probably says
// the same: it is asked after the rest.
func (x *exchange) round(ctx context.Context, now time.Time) {
	x.plan(ctx, now)
	for {
		n, ok := x.next()
		switch {
		case ok:
			x.visit(ctx, n, now)
		case x.running > 0:
			x.waitForOthers(ctx)
		default:
			return
		}
		if x.ended() {
			return
		}
		now = time.Now()
	}
}

// ended reports whether there is an answer, or nothing else to be asked.
func (x *exchange) ended() bool { return x.good != nil || x.over }

// plan lays down the order of a round, and has those servers looked at which
// cannot be told from it.
func (x *exchange) plan(ctx context.Context, now time.Time) {
	g := x.g
	x.servers, x.asked = x.serverRoom[:0], 0
	ill := false
	for _, e := range g.endpoints {
		c := e.candidate()
		ill = ill || !c.well()
		x.servers = append(x.servers, c)
	}
	var chance uint64
	if g.cfg.Policy != Failover {
		chance = rand.Uint64()
	}
	x.order = g.pick(x.orderRoom[:0], x.servers, chance)
	if ill && x.servers[x.order[0]].well() {
		// Where nobody is well, the query itself tries all of them.
		for i, e := range g.endpoints {
			e.mend(ctx, now, &x.servers[i])
		}
	}
	if g.cfg.Policy.ranks() {
		x.scout(ctx, chance)
	}
}

// next takes the next server from the order.
func (x *exchange) next() (n int, ok bool) {
	if len(x.order) == 0 {
		return 0, false
	}
	at := slices.IndexFunc(x.order, func(n int) bool { return !x.knows(x.g.endpoints[n].server.Name) })
	at = max(at, 0)
	n = x.order[at]
	x.order = slices.Delete(x.order, at, at+1)
	return n, true
}

// visit asks one server in the foreground.
func (x *exchange) visit(ctx context.Context, n int, now time.Time) {
	remaining := x.deadline.Sub(now)
	if x.asked > 0 && remaining < minAttempt {
		x.order = x.order[:0]
		return
	}
	x.asked++
	e := x.g.endpoints[n]
	x.lookAfter(e, now)
	reply, err := e.ask(ctx, x.query, now, now.Add(x.share(remaining, len(x.order)+1)), &x.waiter)
	if err == errBeaten {
		return
	}
	x.heed(ctx, e, now, reply, err)
}

// heed makes of an attempt's end what it means for the query.
func (x *exchange) heed(ctx context.Context, e *endpoint, began time.Time, reply []byte, err error) {
	switch {
	case err != nil:
		x.note(newError(e.server, time.Since(began), err))
		x.hope = x.hope || mayPass(err) && (x.rounds == 0 || e.restarting(time.Now()))
		x.over = x.over || ctx.Err() != nil || errors.Is(err, ErrClosed)
		return
	case !isBad(reply) && (len(e.g.endpoints) == 1 || isWhole(reply)):
		x.good = reply
		return
	case x.bad == nil:
		x.bad = reply
	}
	x.badFrom = append(x.badFrom, e.server.Name)
	x.over = x.over || len(x.badFrom) >= maxBad
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
	if x.over || !x.hope || time.Until(x.deadline) < roundPause+minAttempt {
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

// isWhole reports whether a reply can be read to its end, as the forwarder will, and is
// not cut (TC), for which there is no reason over TLS: it is asked while another server
// may do better. On a copy, since reading changes it.
func isWhole(reply []byte) bool {
	c := copies.Get().(*copied)
	defer copies.Put(c)
	c.msg = append(c.msg[:0], reply...)
	return c.reply.Parse(c.msg) == nil && !c.reply.TC
}

// copied is room for a reply, and for what is read of it.
type copied struct {
	msg   []byte
	reply wire.Reply
}

var copies = sync.Pool{New: func() any { return new(copied) }}
