// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// fromCache answers r from the cache, if it can. What has expired is an answer only
// when a refresh failed of late; else its client waits for the upstream, with the
// stale answer in reserve (RFC 8767 §5).
func (f *Forwarder) fromCache(dst []byte, r *request) ([]byte, verdict) {
	if f.cfg.Cache == nil {
		return dst, missed
	}
	var room [wire.MaxKeyLen + maxScope]byte
	var a cache.Answer
	key := r.appendKey(room[:0])
	state := f.cfg.Cache.Get(key, r.start, &a)
	if a.Refresh {
		f.flights.refresh(r, key)
	}
	r.stale = state == cache.Stale
	if state == cache.Miss || r.stale && !a.Failed {
		return dst, missed
	}
	return f.appendCached(dst, r, &a), answered
}

// appendCached appends what the cache has for r.
func (f *Forwarder) appendCached(dst []byte, r *request, a *cache.Answer) []byte {
	switch {
	case a.Reply.Stale:
		dst = a.Append(dst, &r.q, r.limit, staleReason(&a.Reply))
	case a.Reply.Rcode == wire.RcodeServFail:
		dst = a.Append(dst, &r.q, r.limit, wire.EDE{Code: wire.EDECachedError})
	default:
		dst = a.Append(dst, &r.q, r.limit)
	}
	f.observe(r, a.Reply.Rcode, true, nil)
	return dst
}

// staleReason is the Extended DNS Error of a stale answer (RFC 8914 §4.4, §4.20).
func staleReason(r *wire.Reply) wire.EDE {
	if r.Rcode == wire.RcodeNXDomain {
		return wire.EDE{Code: wire.EDEStaleNXDomain}
	}
	return wire.EDE{Code: wire.EDEStaleAnswer}
}

// appendStale appends what the cache has for r, which found a stale answer when it
// came. Not true: it was evicted since.
func (f *Forwarder) appendStale(dst []byte, r *request) ([]byte, bool) {
	if !r.stale {
		return dst, false
	}
	var room [wire.MaxKeyLen + maxScope]byte
	var a cache.Answer
	if f.cfg.Cache.Peek(r.appendKey(room[:0]), time.Now(), &a) == cache.Miss {
		return dst, false
	}
	return f.appendCached(dst, r, &a), true
}

// late answers those who have waited long enough for a refresh from what is stale.
// The flight goes on: its reply is for those who come after.
func (fl *flight) late() {
	fs := fl.fs
	fs.cfg.Cache.Failed(fl.key, time.Now()) // who comes from here on does not wait
	shard := fs.shard(fl.key)
	shard.Lock()
	var waiters []*waiter
	if shard.m[string(fl.key)] == fl {
		waiters, fl.waiters = fl.waiters, nil
	}
	shard.Unlock()
	for _, w := range waiters {
		if !fs.serveStale(w) {
			fs.fail(w, errStaleGone)
		}
	}
}

// serveStale answers w from what is stale. Not true: there is nothing.
func (fs *flights) serveStale(w *waiter) bool {
	buf := getBuffer()
	defer putBuffer(buf)
	var ok bool
	if *buf, ok = w.f.appendStale((*buf)[:sinkRoom], &w.request); ok {
		fs.waiting.give(w.who)
		w.sink.send(w, *buf)
	}
	return ok
}
