// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/failures"
	"sotto/forwarder/wire"
)

// Explanation is what would happen to a query.
type Explanation struct {
	Route Route

	// Final is set if the query is answered without cache and upstream, with this rcode and
	// reason.
	Final  bool
	Rcode  uint16
	Reason string // the text of the Extended DNS Error, or ""

	// Cached is what the cache has for clients that do not want signatures, and for those that
	// do (DO=1).
	Cached, CachedDO Cached
}

// Cached is the state of a cached answer.
type Cached struct {
	State cache.State
	Rcode uint16
	TTL   uint32 // seconds until it expires; 0 unless State is [cache.Fresh]

	// Failure is the failure that is repeated for the time Left if State is [cache.Miss], or
	// nil.
	Failure *failures.Failure
	Left    time.Duration
}

// Explain reports what would happen to the query msg from origin. Nothing is sent or counted.
func (f *Forwarder) Explain(msg []byte, origin Origin) (e Explanation, err error) {
	r := request{origin: origin, start: time.Now()}
	if r.q, err = wire.ParseQuery(msg); err != nil {
		return e, err
	}
	r.route = f.route(&r.q, &r.origin)
	e.Route = r.route
	rcode, ede, final := f.policy(&r, nil)
	if final {
		e.Final, e.Rcode = true, rcode
		for _, d := range ede {
			e.Reason = d.Text
		}
		return e, nil
	}
	if r.route.Action == Forward {
		e.Cached = f.peek(&r, false)
		e.CachedDO = f.peek(&r, true)
		r.q.DO = false
		if e.Cached.State != cache.Fresh && r.mayBeUnsigned() && r.q.Type != wire.TypeANY && e.CachedDO.State != cache.Miss &&
			(e.Cached.State == cache.Miss || e.CachedDO.State == cache.Fresh) {
			e.Cached = e.CachedDO // see [cache.Cache.Unsigned]
		}
	}
	return e, nil
}

func (f *Forwarder) peek(r *request, do bool) (c Cached) {
	r.q.DO = do
	var a cache.Answer
	key := r.appendKey(nil)
	c.State = cache.Miss
	if f.cfg.Cache != nil {
		c.State = f.cfg.Cache.Peek(key, r.start, &a)
	}
	if c.State == cache.Miss {
		c.Failure, c.Left = f.flights.failures.Find(key, r.start)
		return c
	}
	c.Rcode = a.Reply.Rcode
	if c.State == cache.Fresh {
		c.TTL = a.Left()
	}
	return c
}
