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

	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/transport"
	"sotto/forwarder/wire"
)

const (
	// roundPause separates two rounds through the servers. It is longer than the time for
	// which a transport repeats the error of a failed dial, so that the next round dials.
	roundPause = 300 * time.Millisecond

	// restartTime is how long queries wait for a server that was healthy. A resolver that
	// is restarted under load is back within it.
	restartTime = 3 * time.Second

	// minAttempt is the least remaining time for which another server is asked.
	minAttempt = 20 * time.Millisecond

	// maxErrorReplies is the number of servers whose error code (SERVFAIL, REFUSED, …) is
	// the result: a name that fails at three services is broken itself.
	maxErrorReplies = 3
)

// request is one query on its way through the servers. It belongs to the goroutine that
// called [Group.Exchange], which runs one attempt, the foreground; background attempts
// (parallel.go) are rare. It is the [transport.Waiter] of the foreground.
type request struct {
	g        *Group
	query    []byte
	deadline time.Time
	timer    *time.Timer

	servers []order.Candidate // as they were when the round started
	order   []int             // the servers of this round that were not asked yet, best first
	asked   int               // number of servers asked in this round

	reply      []byte    // the good reply
	from       *endpoint // that sent the good reply, or errorReply
	errorReply []byte    // the first reply that is not good
	errorFrom  []string  // the names of the servers that sent such replies
	errs       []*Error  // at most one per server
	stopped    bool      // no further server is to be asked

	rounds    int  // completed
	retryable bool // another round may succeed

	parallel

	serverArray [8]order.Candidate
	orderArray  [8]int
}

// requests reuses requests, so that a query needs no new timer.
var requests = sync.Pool{New: func() any { return &request{timer: transport.StoppedTimer()} }}

// free returns r for reuse, and cancels background attempts.
func (r *request) free() {
	r.timer.Stop()
	if r.cancel != nil {
		r.cancel()
	}
	r.g, r.query, r.servers, r.order, r.asked = nil, nil, nil, nil, 0
	r.reply, r.from, r.errorReply, r.errorFrom, r.errs, r.stopped = nil, nil, nil, nil, nil, false
	r.rounds, r.retryable, r.parallel = 0, false, parallel{}
	requests.Put(r)
}

// run asks the servers until one has an answer.
func (r *request) run(ctx context.Context, now time.Time) ([]byte, error) {
	for {
		r.retryable = false
		r.runRound(ctx, now)
		if r.reply != nil {
			return r.reply, nil
		}
		if r.errorReply != nil {
			return r.errorReply, nil
		}
		if !r.pause(ctx) {
			return nil, transport.Join(r.errs)
		}
		r.rounds++
		now = time.Now()
	}
}

// runRound asks every server once, in the order of the policy, until there is a good
// reply. Other addresses of a service that sent an error code are asked last, because
// they probably send the same.
func (r *request) runRound(ctx context.Context, now time.Time) {
	r.startRound(ctx, now)
	for {
		n, ok := r.next()
		switch {
		case ok:
			r.tryServer(ctx, n, now)
		case r.running > 0:
			r.waitForBackground(ctx)
		default:
			return
		}
		if r.finished() {
			return
		}
		now = time.Now()
	}
}

// finished reports whether there is an answer, or no further server is to be asked.
func (r *request) finished() bool { return r.reply != nil || r.stopped }

// startRound determines the order of a round. It starts probes and measurements of servers
// that this query does not show to be healthy or fast.
func (r *request) startRound(ctx context.Context, now time.Time) {
	g := r.g
	r.servers, r.asked = r.serverArray[:0], 0
	unhealthy := false
	for _, e := range g.endpoints {
		c := e.candidate()
		unhealthy = unhealthy || !c.Healthy()
		r.servers = append(r.servers, c)
	}
	var chance uint64
	switch {
	case g.cfg.Split != nil:
		chance = g.cfg.Split.domain(r.query)
	case g.cfg.Policy != order.Failover:
		chance = rand.Uint64()
	}
	r.order = g.pick(r.orderArray[:0], r.servers, chance)
	if unhealthy && r.servers[r.order[0]].Healthy() {
		// If no server is healthy, the query itself tries all of them.
		for i, e := range g.endpoints {
			e.probeIfDue(ctx, now, &r.servers[i])
		}
	}
	if g.cfg.Policy.Measures() {
		r.measure(ctx, chance)
	}
}

// next removes the next server from the order.
func (r *request) next() (n int, ok bool) {
	if len(r.order) == 0 {
		return 0, false
	}
	at := slices.IndexFunc(r.order, func(n int) bool { return !r.hasErrorFrom(r.g.endpoints[n].server.Name) })
	at = max(at, 0)
	n = r.order[at]
	r.order = slices.Delete(r.order, at, at+1)
	return n, true
}

// tryServer asks one server in the foreground.
func (r *request) tryServer(ctx context.Context, n int, now time.Time) {
	remaining := r.deadline.Sub(now)
	if r.asked > 0 && remaining < minAttempt {
		r.order = r.order[:0]
		return
	}
	r.asked++
	e := r.g.endpoints[n]
	r.watch(n, now)
	reply, err := e.ask(ctx, r.query, now, r.deadline, r)
	if err == errSuperseded {
		return
	}
	r.handleResult(ctx, e, now, reply, err)
}

// handleResult records the result of an attempt.
func (r *request) handleResult(ctx context.Context, e *endpoint, started time.Time, reply []byte, err error) {
	switch {
	case err != nil:
		r.recordError(transport.NewError(e.server, time.Since(started), err))
		r.retryable = r.retryable || isTransient(err) && (r.rounds == 0 || e.restarting(time.Now()))
		r.stopped = r.stopped || ctx.Err() != nil || errors.Is(err, transport.ErrClosed)
		return
	case wire.IsAnswer(wire.Rcode(reply)) && (len(e.g.endpoints) == 1 || isComplete(r.query, reply)):
		r.reply, r.from = reply, e
		return
	case r.errorReply == nil:
		r.errorReply, r.from = reply, e
	}
	if e != r.current || !r.repeated || !r.hasErrorFrom(e.server.Name) { // a repetition does not count
		r.errorFrom = append(r.errorFrom, e.server.Name)
	}
	r.stopped = r.stopped || len(r.errorFrom) >= maxErrorReplies
}

// recordError keeps one error per server: the latest, unless that is only a timeout.
func (r *request) recordError(err *Error) {
	for i, old := range r.errs {
		if old.Server == err.Server {
			if err.Code != wire.EDENoReachableAuthority {
				r.errs[i] = err
			}
			return
		}
	}
	r.errs = append(r.errs, err)
}

// timeShare returns how long a server is waited for until the next one is asked as well, if
// that many are left, the first of which is asked now: so long that two more can be asked.
func (r *request) timeShare(remaining time.Duration, servers int) time.Duration {
	if servers == 1 {
		return remaining
	}
	return min(r.g.cfg.AttemptTimeout, remaining/time.Duration(min(servers, 3)))
}

// hasErrorFrom reports whether a server of that name sent a reply that is not good.
func (r *request) hasErrorFrom(name string) bool {
	return name != "" && slices.Contains(r.errorFrom, name)
}

// pause waits between two rounds. It reports false if another round cannot succeed, or
// would be too late.
func (r *request) pause(ctx context.Context) bool {
	if r.stopped || !r.retryable || time.Until(r.deadline) < roundPause+minAttempt {
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

// isTransient reports whether a server that restarts causes such an error. A bad
// certificate or a missing route, for example, does not disappear within a moment.
func isTransient(err error) bool {
	return transport.IsLost(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.ECONNABORTED) || transport.IsDial(err) && errors.Is(err, io.EOF)
}

// isComplete reports whether a reply can be parsed to its end, as the forwarder will do,
// is not truncated (TC), for which TLS gives no reason, and has an OPT record if the query
// has DO set: without one it has no signatures. It is checked while another server may do
// better. It parses a copy because parsing modifies the message.
func isComplete(query, reply []byte) bool {
	b := parseBuffers.Get().(*parseBuffer)
	defer parseBuffers.Put(b)
	b.msg = append(b.msg[:0], reply...)
	return b.reply.Parse(b.msg) == nil && !b.reply.TC && (b.reply.EDNS || !wire.WantsDNSSEC(query))
}

// parseBuffer holds a copy of a reply and its parsed form.
type parseBuffer struct {
	msg   []byte
	reply wire.Reply
}

var parseBuffers = sync.Pool{New: func() any { return new(parseBuffer) }}
