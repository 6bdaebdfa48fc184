// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"slices"
	"strings"
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/failures"
	"sotto/forwarder/wire"
)

// fromCache answers r from the cache if possible. A stale answer is returned
// immediately only if a refresh failed recently. Otherwise the client waits for the
// upstream, and the stale answer is used if that is slow or fails (RFC 8767 §5).
// Without any answer, a failure that is remembered is the reply (RFC 9520).
func (f *Forwarder) fromCache(dst []byte, r *request) ([]byte, verdict) {
	var room [wire.MaxKeyLen + maxScope]byte
	key := r.appendKey(room[:0])
	if c := f.cfg.Cache; c != nil {
		var a cache.Answer
		state := c.Get(key, r.start, &a)
		if f.repeats != nil && state == cache.Fresh {
			f.repeat(r, &a, key)
		}
		if state != cache.Fresh && r.mayBeUnsigned() && f.unsigned(key, r, state) {
			state = c.Peek(key, r.start, &a)
		}
		if a.Refresh {
			f.flights.refresh(r, key)
		}
		r.stale = state == cache.Stale
		if state == cache.Fresh || r.stale && a.Failed {
			return f.appendCached(dst, r, &a), answered
		}
	}
	if !r.stale {
		if failure := f.flights.failures.Get(key, r.start); failure != nil {
			return f.appendFailure(dst, r, failure), answered
		}
	}
	return dst, missed
}

// mayBeUnsigned reports whether the answer to r may be made of the answer with DO=1. With CD=1 that
// may be another one: DNS64 translates it for DO=0 only (RFC 6147 §5.5).
func (r *request) mayBeUnsigned() bool { return !r.q.DO && !r.q.CD }

// unsigned reports whether the cache has got an answer to r, which does not want
// signatures, from the answer to the same question with DO=1.
func (f *Forwarder) unsigned(key []byte, r *request, state cache.State) bool {
	var room [wire.MaxKeyLen + maxScope]byte
	signed := append(room[:0], key...)
	signed[len(r.q.Name)+4] |= wire.KeyDO
	return f.cfg.Cache.Unsigned(signed, key, state, r.start)
}

// appendFailure appends the reply to r for a failure that is remembered: the rcode and the
// reasons of the first reply, and that it is a cached error (RFC 8914 §4.14).
func (f *Forwarder) appendFailure(dst []byte, r *request, failure *failures.Failure) []byte {
	var room [1 + 8]wire.EDE
	ede := append(append(room[:0], failure.EDE...), wire.EDE{Code: wire.EDECachedError})
	dst = wire.AppendError(dst, &r.q, failure.Rcode, ede...)
	f.cfg.observe(r, failure.Rcode, FromCache, failure.Err)
	return dst
}

// remember records in the table of failures that the flight failed, unless the cache has an
// answer, which is used instead, or the cause is local. It is called while the flight is in
// the table of flights.
func (fs *flights) remember(fl *flight, reply *wire.Reply, err error) {
	now := time.Now()
	if fs.cfg.Cache != nil {
		var a cache.Answer
		if fs.cfg.Cache.Peek(fl.key, now, &a) != cache.Miss {
			return
		}
	}
	failure := &failures.Failure{Rcode: reply.Rcode, EDE: reply.EDE}
	if err != nil {
		ede := edeOf(err)
		if ede.Code == wire.EDEOther || fs.ctx.Err() != nil {
			return // the forwarder is closing, or has too many queries in flight
		}
		var u interface{ Unreached() bool }
		*failure = failures.Failure{Rcode: wire.RcodeServFail, EDE: []wire.EDE{ede}, Err: err,
			Unreached: errors.As(err, &u) && u.Unreached()}
	}
	fs.failures.Put(fl.generation, fl.key, fl.scope, failure, now)
}

// NetworkChanged forgets failures: their cause may have been the network. Answers to queries in
// flight are not cached. The caller notifies the upstreams before, and flushes answers that depend on
// the network afterwards.
func (f *Forwarder) NetworkChanged() { f.flights.failures.Clear() }

// FlushFailures forgets the failures of a name, which is in presentation form, and of all
// names below it; "" or "." means all.
func (f *Forwarder) FlushFailures(name string) error {
	zone, err := wire.AppendParsed(nil, strings.ToLower(strings.TrimSuffix(name, "."))+".")
	if err == nil {
		f.flights.failures.FlushName(zone)
	}
	return err
}

// SetFixedOrder sets whether the addresses of an answer keep the order in which they were
// received. By default they are rotated.
func (f *Forwarder) SetFixedOrder(fixed bool) { f.flights.fixedOrder.Store(fixed) }

// appendCached appends the cached answer a to r.
func (f *Forwarder) appendCached(dst []byte, r *request, a *cache.Answer) []byte {
	source := FromCache
	if a.Reply.Rotate && f.flights.fixedOrder.Load() {
		a.Reply.Rotate = false
	}
	if a.Reply.Stale {
		source = FromStale
		dst = a.Append(dst, &r.q, r.limit, staleEDE(&a.Reply))
	} else {
		dst = a.Append(dst, &r.q, r.limit)
	}
	f.cfg.observe(r, a.Reply.Rcode, source, nil)
	return dst
}

// staleEDE returns the Extended DNS Error of a stale answer (RFC 8914 §4.4, §4.20).
func staleEDE(r *wire.Reply) wire.EDE {
	if r.Rcode == wire.RcodeNXDomain {
		return wire.EDE{Code: wire.EDEStaleNXDomain}
	}
	return wire.EDE{Code: wire.EDEStaleAnswer}
}

// appendStale appends the stale answer that was found when r arrived. It reports
// false if there was none, or if it has been evicted since.
func (f *Forwarder) appendStale(dst []byte, r *request) ([]byte, bool) {
	var a cache.Answer
	if !f.peekStale(r, &a) {
		return dst, false
	}
	return f.appendCached(dst, r, &a), true
}

// peekStale sets a to the stale answer of [Forwarder.appendStale].
func (f *Forwarder) peekStale(r *request, a *cache.Answer) bool {
	if !r.stale {
		return false
	}
	var room [wire.MaxKeyLen + maxScope]byte
	return f.cfg.Cache.Peek(r.appendKey(room[:0]), time.Now(), a) != cache.Miss
}

// startTimer starts the timer of serveAllStale for a query that arrived at that time, unless it
// runs for an earlier one. The caller has locked the flight's shard.
func (fl *flight) startTimer(arrived time.Time) {
	if fl.timer == nil {
		fl.timer = time.AfterFunc(time.Until(arrived.Add(fl.fs.cfg.StaleAfter)), fl.serveAllStale)
	}
}

// serveAllStale answers all pending queries of the flight that have a stale answer,
// because the upstream did not answer within [Config.StaleAfter]. The flight
// continues, and its reply is for the other queries and later ones, and for all if the stale
// answer was evicted.
func (fl *flight) serveAllStale() {
	fs, now := fl.fs, time.Now()
	var a cache.Answer
	state := fs.cfg.Cache.Peek(fl.key, now, &a)
	if state == cache.Stale {
		fs.cfg.Cache.Failed(fl.key, now) // later queries do not wait
	}
	shard := fs.shard(fl.key)
	shard.Lock()
	fl.timer = nil // a query may still join that has read the cache before
	var stale []*pendingQuery
	if state != cache.Miss && shard.m[string(fl.key)] == fl {
		fl.markStale(fl.pending)
		fl.pending = slices.DeleteFunc(fl.pending, func(p *pendingQuery) bool {
			if p.stale {
				stale = append(stale, p)
			}
			return p.stale
		})
	}
	shard.Unlock()
	for _, p := range stale {
		fs.replyStale(p, &a)
	}
}

// serveStale answers p with a stale answer. It reports false if there is none.
func (fs *flights) serveStale(p *pendingQuery) bool {
	var a cache.Answer
	if !p.f.peekStale(&p.request, &a) {
		return false
	}
	fs.replyStale(p, &a)
	return true
}

// replyStale answers p with a, and releases p.
func (fs *flights) replyStale(p *pendingQuery, a *cache.Answer) {
	buf := getBuffer()
	defer putBuffer(buf)
	*buf = p.f.appendCached((*buf)[:framePrefix], &p.request, a)
	fs.waiting.Release(p.src)
	fs.cfg.tapReply(&p.request, (*buf)[framePrefix:])
	p.writer.send(p, *buf)
}
