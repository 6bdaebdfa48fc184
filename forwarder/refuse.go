// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"sync/atomic"

	"sotto/forwarder/admission"
	"sotto/forwarder/wire"
	"sotto/internal/ratelog"
)

// Stats holds counters since the start, and current numbers.
type Stats struct {
	Overloaded uint64 // queries refused because the limit for all sources was reached
	OverShare  uint64 // queries refused because their workload or client held its share

	Misses  int // upstream queries in flight
	Waiting int // client queries waiting for them
	Sources int // workloads or clients that those come from
	Conns   int // open TCP connections
}

// Stats returns the current counts. They are read one after the other, so they may be
// inconsistent with each other.
func (f *Forwarder) Stats() Stats {
	return Stats{
		Overloaded: f.refused.overloaded.Load(),
		OverShare:  f.refused.overShare.Load(),
		Misses:     f.flights.misses.InUse(),
		Waiting:    f.flights.waiting.InUse(),
		Sources:    f.flights.waiting.Sources(),
		Conns:      f.conns.Len(),
	}
}

// refusals counts the queries refused over capacity.
type refusals struct {
	overloaded, overShare atomic.Uint64
	warn                  ratelog.Limiter
}

// refuse appends the reply to a query that was not accepted because of err: a stale
// answer if there is one, otherwise SERVFAIL.
func (f *Forwarder) refuse(dst []byte, r *request, err error) []byte {
	if errors.Is(err, admission.ErrOverShare) {
		f.refused.overShare.Add(1)
	} else {
		f.refused.overloaded.Add(1)
	}
	if f.refused.warn.Allow(r.start) {
		f.cfg.Log.Warn("query refused: over capacity", "reason", err, "source", r.source(),
			"overloaded_total", f.refused.overloaded.Load(), "over_share_total", f.refused.overShare.Load())
	}
	reply, ok := f.appendStale(dst, r)
	if !ok {
		reply = wire.AppendError(dst, &r.q, wire.RcodeServFail, edeOf(err))
		f.cfg.observe(r, wire.RcodeServFail, FromSotto, err)
	}
	f.cfg.tapReply(r, reply[len(dst):])
	return reply
}
