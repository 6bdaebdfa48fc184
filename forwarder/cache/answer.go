// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"time"

	"sotto/forwarder/wire"
)

// State is the result of a lookup.
type State uint8

// States.
const (
	Miss  State = iota // no answer
	Fresh              // an answer that has not expired
	Stale              // an expired answer, to be used if there is no other (RFC 8767)
)

const (
	// failureRecheck is how long after a failed refresh clients get a stale answer
	// without waiting for the upstream (RFC 8767 §5). In the background the upstream
	// is queried more often, as after a failed prefetch: it is one recursive server
	// and not the many of the whole tree, and once it works again its answers should
	// be used soon.
	failureRecheck = 30

	// popular is the number of hits from which an answer is prefetched. The query
	// that stored it does not count. Two hits may be one client that sends a query
	// twice. After three within one TTL another query is likely within the next, and
	// the prefetch saves a miss. Otherwise one upstream query was wasted.
	popular = 3
	// minPrefetchTTL is the minimum TTL for a prefetch. A tenth of a shorter TTL is too
	// short to fetch anything, and the gain would be as short.
	minPrefetchTTL = 10
	// prefetchShare is the last part of a TTL, a tenth, in which answers are
	// prefetched.
	prefetchShare = 10
	// refreshRetry is after how many seconds a refresh that brought no answer is
	// requested again. It is longer than an upstream query may take.
	refreshRetry = 5
)

// Answer is the result of [Cache.Get]. Its parts alias the cache's memory, which is
// never modified; they are read-only.
type Answer struct {
	// Reply is the reply without the upstream's EDEs, which only Append adds. Its TTLs
	// have to be reduced by Age. They differ from those of the upstream if the
	// configuration's limits apply.
	Reply wire.Reply
	// Age is how many seconds the reply has been in the cache.
	Age uint32
	// Refresh asks the caller to query the upstream again, in addition to answering:
	// the answer is popular and about to expire, or has expired and could not be
	// refreshed so far. For some seconds no other caller is asked.
	Refresh bool
	// Failed reports that the answer is stale and a refresh failed recently, so it
	// should be used without waiting for the upstream (RFC 8767 §5).
	Failed bool

	entry  *entry
	repeat uint32 // version of Cache.Repeat
}

// Stored and Expires return the times from which and until which the answer is fresh. Plain
// reports whether [Answer.Append] adds nothing to the reply but OPT: it is a fresh answer, not an
// error, without EDEs.
func (a *Answer) Stored() time.Time { return time.Unix(0, a.entry.stored) }

// Expires is described at Stored.
func (a *Answer) Expires() time.Time { return time.Unix(0, a.entry.expires()) }

// Plain is described at Stored.
func (a *Answer) Plain() bool {
	return !a.Reply.Stale && a.entry.edes == 0 && (a.Reply.Rcode == wire.RcodeSuccess || a.Reply.Rcode == wire.RcodeNXDomain)
}

// RefreshAt returns the time from which the answer is refreshed if it is popular: until then nothing
// but its age changes.
func (a *Answer) RefreshAt() time.Time {
	e := a.entry
	if e.ttl < minPrefetchTTL {
		return a.Expires()
	}
	return time.Unix(0, e.expires()-int64(e.ttl)*int64(time.Second)/prefetchShare)
}

// Left returns the seconds until the answer expires; 0 if it has.
func (a *Answer) Left() uint32 {
	if a.entry == nil || a.entry.ttl <= a.Age {
		return 0
	}
	return a.entry.ttl - a.Age
}

// Append appends the answer with [wire.AppendReply] for the client that sent q, with a
// maximum length of limit. It adds ede and the upstream's EDEs.
func (a *Answer) Append(dst []byte, q *wire.Query, limit int, ede ...wire.EDE) []byte {
	if a.entry != nil && a.entry.edes > 0 {
		return a.appendWithEDEs(dst, q, limit, ede)
	}
	return wire.AppendReply(dst, q, &a.Reply, a.Age, limit, ede...)
}

// appendWithEDEs is Append for a reply with EDEs. Their memory is here, and not in every
// Answer, because few replies have any.
func (a *Answer) appendWithEDEs(dst []byte, q *wire.Query, limit int, ede []wire.EDE) []byte {
	var room [maxEDEs]wire.EDE
	r := a.Reply
	_, _, packed := a.entry.tail()
	r.EDE = unpackEDEs(&room, packed)
	return wire.AppendReply(dst, q, &r, a.Age, limit, ede...)
}

// fill sets a to the answer of e at now if e is fresh. It is called for every hit, so the
// fields are set one by one: a composite literal would be created first and then copied.
func (a *Answer) fill(e *entry, now int64) {
	a.Reply.Msg, _, _ = e.tail()
	a.Reply.QEnd = int(e.qend)
	a.Reply.TTLs = e.offsets()
	a.Reply.Rcode = e.rcode()
	a.Reply.TTL = e.ttl
	a.Reply.Negative = e.flags&flagNegative != 0
	a.Reply.Stale = false
	a.Reply.TC = false
	a.Reply.AD = e.flags&flagAD != 0
	a.Reply.Rotate = e.flags&flagRotate != 0
	a.Reply.EDE = nil
	a.Age = e.age(now)
	a.Refresh, a.Failed = false, false
	a.entry = e
}

// countHit counts a hit on e, and reports whether its caller should refresh e. Hits are
// counted only up to popular, so that processors do not contend for the cache line of a
// popular entry at every hit.
func (e *entry) countHit(now int64) bool {
	if e.ttl < minPrefetchTTL {
		return false
	}
	n := e.prefetch.Load()
	if n < popular {
		if !e.prefetch.CompareAndSwap(n, n+1) {
			return false // a concurrent hit counts for both
		}
		n++
	}
	tenth := int64(e.ttl) * int64(time.Second) / prefetchShare
	if n < popular || e.expires()-now > tenth {
		return false
	}
	next := popular + 1 + e.age(now)
	if n > popular && next < n+refreshRetry {
		return false
	}
	return e.prefetch.CompareAndSwap(n, next)
}

// fail records that a refresh of e failed.
func (e *entry) fail(now int64) { e.failed.Store(1 + e.age(now)) }

// failedRecently reports whether a refresh failed within failureRecheck before now.
func (e *entry) failedRecently(now int64) bool {
	f := e.failed.Load()
	return f != 0 && e.age(now) < f-1+failureRecheck
}

// retryRefresh reports whether the caller should query the upstream in the background,
// although a refresh of e, which is stale, failed recently.
func (e *entry) retryRefresh(now int64) bool {
	n, age := e.prefetch.Load(), e.age(now)
	next := popular + 1 + age
	if age < e.failed.Load()-1+refreshRetry || n > popular && next < n+refreshRetry {
		return false
	}
	return e.prefetch.CompareAndSwap(n, next)
}
