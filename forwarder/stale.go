// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/wire"
)

// fromCache answers r from the cache if possible. A stale answer is returned
// immediately only if a refresh failed recently. Otherwise the client waits for the
// upstream, and the stale answer is used if that is slow or fails (RFC 8767 §5).
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

// appendCached appends the cached answer a to r.
func (f *Forwarder) appendCached(dst []byte, r *request, a *cache.Answer) []byte {
	source := FromCache
	switch {
	case a.Reply.Stale:
		source = FromStale
		dst = a.Append(dst, &r.q, r.limit, staleEDE(&a.Reply))
	case a.Reply.Rcode == wire.RcodeServFail:
		dst = a.Append(dst, &r.q, r.limit, wire.EDE{Code: wire.EDECachedError})
	default:
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

// serveAllStale answers all pending queries of the flight with the stale answer,
// because the upstream did not answer within [Config.StaleAfter]. The flight
// continues, and its reply is for later queries.
func (fl *flight) serveAllStale() {
	fs := fl.fs
	fs.cfg.Cache.Failed(fl.key, time.Now()) // later queries do not wait
	shard := fs.shard(fl.key)
	shard.Lock()
	var pending []*pendingQuery
	if shard.m[string(fl.key)] == fl {
		pending, fl.pending = fl.pending, nil
	}
	shard.Unlock()
	for _, p := range pending {
		if !fs.serveStale(p) {
			fs.fail(p, errStaleEvicted)
		}
	}
}

// serveStale answers p with a stale answer. It reports false if there is none.
func (fs *flights) serveStale(p *pendingQuery) bool {
	buf := getBuffer()
	defer putBuffer(buf)
	var ok bool
	if *buf, ok = p.f.appendStale((*buf)[:framePrefix], &p.request); ok {
		fs.waiting.Release(p.src)
		fs.cfg.tapReply(&p.request, (*buf)[framePrefix:])
		p.writer.send(p, *buf)
	}
	return ok
}
