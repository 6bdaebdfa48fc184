// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"sync/atomic"
	"time"

	"sotto/forwarder/wire"
)

// Stats are counts since the start, and what is there now.
type Stats struct {
	Overloaded uint64 // queries that were one too many for everybody
	Greedy     uint64 // queries that were one too many for their workload or client

	Misses  int // upstream queries in flight
	Waiting int // clients that wait for them
	Sources int // workloads or clients that those are
	Conns   int // TCP connections held
}

// Stats returns them. It is no snapshot: the numbers are read one after the other.
func (f *Forwarder) Stats() Stats {
	return Stats{
		Overloaded: f.refused.overloaded.Load(),
		Greedy:     f.refused.greedy.Load(),
		Misses:     int(f.flights.misses.taken.Load()),
		Waiting:    int(f.flights.waiting.taken.Load()),
		Sources:    f.flights.waiting.holders(),
		Conns:      f.conns.len(),
	}
}

// refusals counts what was refused for want of room.
type refusals struct {
	overloaded, greedy atomic.Uint64
	warned             atomic.Int64 // when that was logged, in Unix time
}

// refuse appends the reply to a query that is one too many, for that reason.
func (f *Forwarder) refuse(dst []byte, r *request, why error) []byte {
	if errors.Is(why, errGreedy) {
		f.refused.greedy.Add(1)
	} else {
		f.refused.overloaded.Add(1)
	}
	f.warnRefused(r, why)
	if reply, ok := f.appendStale(dst, r); ok {
		return reply
	}
	dst = wire.AppendError(dst, &r.q, wire.RcodeServFail, reason(why))
	f.observe(r, wire.RcodeServFail, false, why)
	return dst
}

// warnRefused tells of one now and then: a flood would fill the log.
func (f *Forwarder) warnRefused(r *request, why error) {
	now, last := r.start.Unix(), f.refused.warned.Load()
	if now-last < int64(warnEvery/time.Second) || !f.refused.warned.CompareAndSwap(last, now) {
		return
	}
	f.cfg.Log.Warn("queries are refused for want of room, of which this is one", "why", why, "from", r.source(),
		"overloaded", f.refused.overloaded.Load(), "greedy", f.refused.greedy.Load())
}
