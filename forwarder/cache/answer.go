// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"time"

	"sotto/forwarder/wire"
)

// State is what a look-up found.
type State uint8

// States.
const (
	Miss  State = iota // nothing: ask an upstream
	Fresh              // an answer that holds
	Stale              // one that has expired: better than none (RFC 8767)
)

const (
	// failureTTL is how long a SERVFAIL is kept: what RFC 9520 §3.2 suggests to
	// begin with. (It demands one second, and both it and RFC 2308 §7.1 forbid
	// more than five minutes.) Clients that try again at once are answered, those
	// that come back later get another try.
	failureTTL = 5
	// failureRecheck is for how long after a failed refresh no client waits for
	// the upstream while there is a stale answer (RFC 8767 §5). The upstream is
	// tried more often, as after a prefetch that failed: it is one recursive
	// server, and not the many of the whole tree, and when it is back its answers
	// should be.
	failureRecheck = 30

	// popular is from which hit on an answer is worth a prefetch. The question
	// that brought it does not count. Two hits may be one client that asks
	// twice; at the third, within one TTL, it is likely that somebody asks in
	// the next, and is spared a miss. If nobody does, one query was for nothing.
	popular = 3
	// minPrefetchTTL is from which TTL on: a tenth of less is no time to
	// fetch anything in, and the gain would last no longer.
	minPrefetchTTL = 10
	// prefetchShare is the part of a TTL, its last, in which to prefetch.
	prefetchShare = 10
	// prefetchAgain is after how many seconds a refresh that brought nothing is
	// asked for again: more than an upstream query may take.
	prefetchAgain = 5
)

// Answer is what [Cache.Get] found. Its parts alias the cache's memory, which
// stays as it is for as long as somebody refers to it: read only.
type Answer struct {
	// Reply is the reply, but for the upstream's EDEs, which only Append adds.
	// Its TTLs are to be counted down by Age; where the configuration's limits
	// changed them they differ from what the upstream sent.
	Reply wire.Reply
	// Age is for how many seconds the reply has been in the cache.
	Age uint32
	// Refresh: the answer is popular and about to expire, or has expired and
	// could not be refreshed so far; and this caller is the one to ask the
	// upstream again, besides answering. Nobody else is told for some seconds.
	Refresh bool
	// Failed: the answer is stale, and a refresh failed not long ago: to be
	// given at once, without waiting for the upstream (RFC 8767 §5).
	Failed bool

	entry *entry
}

// Append appends the answer as [wire.AppendReply] does: for the client that
// sent q, in at most limit bytes, with the EDEs of ours and those that the
// upstream sent.
func (a *Answer) Append(dst []byte, q *wire.Query, limit int, ede ...wire.EDE) []byte {
	if a.entry != nil && a.entry.edes > 0 {
		return a.appendWithEDEs(dst, q, limit, ede)
	}
	return wire.AppendReply(dst, q, &a.Reply, a.Age, limit, ede...)
}

// appendWithEDEs is Append for a reply with EDEs. Their room is here, and not in
// every Answer, because few replies have any.
func (a *Answer) appendWithEDEs(dst []byte, q *wire.Query, limit int, ede []wire.EDE) []byte {
	var room [maxEDEs]wire.EDE
	r := a.Reply
	_, _, packed := a.entry.tail()
	r.EDE = unpackEDEs(&room, packed)
	return wire.AppendReply(dst, q, &r, a.Age, limit, ede...)
}

// fill makes a the answer that e gives at now while it is fresh. It is on the path of
// every hit: fields are set one by one, since a whole Answer would be made
// first and then copied.
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
	a.Reply.EDE = nil
	a.Age = e.age(now)
	a.Refresh, a.Failed = false, false
	a.entry = e
}

// askedAgain notes a hit on e, and tells whether it is the one that has to
// refresh it. Hits are counted only until they suffice, so that a popular entry
// is not written to, and its cache line not fought over, at every hit.
func (e *entry) askedAgain(now int64) bool {
	if e.ttl < minPrefetchTTL {
		return false
	}
	n := e.prefetch.Load()
	if n < popular {
		if !e.prefetch.CompareAndSwap(n, n+1) {
			return false // somebody else's hit, at the same time, counts for both
		}
		n++
	}
	tenth := int64(e.ttl) * int64(time.Second) / prefetchShare
	if n < popular || e.expires()-now > tenth {
		return false
	}
	next := popular + 1 + e.age(now)
	if n > popular && next < n+prefetchAgain {
		return false
	}
	return e.prefetch.CompareAndSwap(n, next)
}

// fail notes that a refresh of e failed.
func (e *entry) fail(now int64) { e.failed.Store(1 + e.age(now)) }

// failedLately tells whether one failed within the recheck time before now.
func (e *entry) failedLately(now int64) bool {
	f := e.failed.Load()
	return f != 0 && e.age(now) < f-1+failureRecheck
}

// tryAgain tells whether the caller who is given e, stale and not refreshed of late,
// is the one to ask the upstream all the same, behind its answer.
func (e *entry) tryAgain(now int64) bool {
	n, age := e.prefetch.Load(), e.age(now)
	next := popular + 1 + age
	if age < e.failed.Load()-1+prefetchAgain || n > popular && next < n+prefetchAgain {
		return false
	}
	return e.prefetch.CompareAndSwap(n, next)
}
