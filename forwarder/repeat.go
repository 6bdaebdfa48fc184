// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// maxRepeats limits the answers that wait to be offered to a [Repeater]. Those above are offered
// after a later hit.
const maxRepeats = 256

// Repeater gives cached answers in the place of the forwarder, before queries reach it. It is safe
// for concurrent use.
type Repeater interface {
	// Version returns a number that changes whenever what was accepted before is not valid any
	// more. It is called before an answer is looked up.
	Version() uint64
	// Accept stores an answer that was looked up while version was in force.
	Accept(r *Repeatable, version uint64)
}

// Repeatable is an answer that every query with the same question, DO and CD gets until Refresh,
// if its origin is treated like Origin by the router, and it has the flag RD, no cookie and nothing
// else that is unusual. Its parts are valid during the call.
type Repeatable struct {
	Origin Origin
	DO, CD bool
	Reply  *wire.Reply // its TTLs are those of the time Stored; the question is in lower case
	Key    []byte      // in the cache

	Stored, Refresh, Expires time.Time // wall clock
}

// repeat offers the answer a, which has that key, to the repeater if it may want it. It does not
// block.
func (f *Forwarder) repeat(r *request, a *cache.Answer, key []byte) {
	class := f.cfg.Repeats(r.local.Addr())
	if class == 0 || r.tcp || r.route.Action != Forward || !a.Ask(class) {
		return
	}
	select {
	case f.repeats <- new(pendingQuery).init(f, r, nil):
	default:
		f.cfg.Cache.RepeatAgain(key)
	}
}

// RunRepeats offers answers to to until ctx ends: those that [cache.Cache.Repeat] asks for.
func (f *Forwarder) RunRepeats(ctx context.Context, to Repeater) error {
	for {
		select {
		case p := <-f.repeats:
			f.offer(to, &p.request)
		case <-ctx.Done():
			return nil
		}
	}
}

// offer offers the answer to the query r as it is now. The rules may have changed since r was
// answered, so it is routed again, after the version was read.
func (f *Forwarder) offer(to Repeater, r *request) {
	version, now := to.Version(), time.Now()
	r.route = f.route(&r.q, &r.origin)
	if _, _, final := f.policy(r, nil); final || r.route.Action != Forward || r.q.Opcode != wire.OpcodeQuery {
		return
	}
	var room [wire.MaxKeyLen + maxScope]byte
	var a cache.Answer
	key := r.appendKey(room[:0])
	if f.cfg.Cache.Peek(key, now, &a) != cache.Fresh || !a.Plain() {
		return
	}
	if a.Reply.Rotate && !f.flights.fixedOrder.Load() {
		return // a repeater does not change the order of addresses
	}
	to.Accept(&Repeatable{
		Origin: r.origin, DO: r.q.DO, CD: r.q.CD, Reply: &a.Reply, Key: key,
		Stored: a.Stored(), Refresh: a.RefreshAt(), Expires: a.Expires(),
	}, version)
}
