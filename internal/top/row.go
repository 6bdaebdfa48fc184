// SPDX-License-Identifier: Apache-2.0

package top

import (
	"math"
	"time"

	"sotto/internal/observe"
	"sotto/internal/status"
)

const (
	// history is the number of samples that a plot shows at most. There is one per second.
	history = 60

	// halfLife is the time after which a sample weighs half in an average.
	halfLife = 5 * time.Second
)

// counts are numbers of queries, and the sum of their times in seconds.
type counts struct {
	queries, failed, cached uint64
	seconds                 float64
}

func (c counts) plus(o counts) counts {
	return counts{c.queries + o.queries, c.failed + o.failed, c.cached + o.cached, c.seconds + o.seconds}
}

// minus returns the difference, and zero where it would be negative.
func (c counts) minus(o counts) counts {
	sub := func(a, b uint64) uint64 { return a - min(a, b) }
	return counts{sub(c.queries, o.queries), sub(c.failed, o.failed), sub(c.cached, o.cached), max(0, c.seconds-o.seconds)}
}

func countsOf(w *observe.WorkloadCounts) counts {
	return counts{w.Queries, w.Failed, w.Cached, w.Seconds}
}

// countsOfRecord is one query, failed under the same condition as in [observe.Hub].
func countsOfRecord(r *observe.Record) counts {
	c := counts{queries: 1, seconds: r.Millis / 1000}
	if r.Error != "" || r.Rcode == "SERVFAIL" {
		c.failed = 1
	}
	switch r.Source {
	case "cache", "stale", "shared", "kernel":
		c.cached = 1
	}
	return c
}

// key identifies a row.
type key struct {
	group string // of a name its workload, of an upstream its group; "" otherwise
	name  string
}

// row is one line of a table.
type row struct {
	key
	called string // name that people know for a workload; "": unknown
	total  counts // since the row exists; of workloads and upstreams since Sotto's start
	// rate, failed, cached and seconds are per second, averaged with halfLife.
	rate, failed, cached, seconds float64
	plot                          [history]float32 // rates, the latest last
	quiet                         int              // samples without a query
	server                        status.Server    // of an upstream
}

// step adds a sample: d was counted in dt, of which the share keep is left of what was before.
func (r *row) step(d counts, dt time.Duration, keep float64) {
	per := 1 / dt.Seconds()
	average := func(v *float64, add float64) { *v = *v*keep + add*per*(1-keep) }
	average(&r.rate, float64(d.queries))
	average(&r.failed, float64(d.failed))
	average(&r.cached, float64(d.cached))
	average(&r.seconds, d.seconds)
	copy(r.plot[:], r.plot[1:])
	r.plot[history-1] = float32(float64(d.queries) * per)
	if r.quiet++; d.queries > 0 {
		r.quiet = 0
	}
}

// add adds the figures of another row.
func (r *row) add(o *row) {
	r.total = r.total.plus(o.total)
	r.rate, r.failed, r.cached, r.seconds = r.rate+o.rate, r.failed+o.failed, r.cached+o.cached, r.seconds+o.seconds
	for i := range r.plot {
		r.plot[i] += o.plot[i]
	}
	r.quiet = min(r.quiet, o.quiet)
}

// time is the mean time from query to reply in seconds, or the usual one of an upstream; NaN if
// there were no queries recently.
func (r *row) time() float64 {
	switch {
	case r.server.UsualMillis > 0:
		return r.server.UsualMillis / 1000
	case r.server.Server != "" || r.rate < 1e-3:
		return math.NaN()
	}
	return r.seconds / r.rate
}

// share is part of the rate, from 0 to 1; NaN if there were no queries recently.
func (r *row) share(part float64) float64 {
	if r.rate < 1e-3 {
		return math.NaN()
	}
	return part / r.rate
}

// keepAfter is the weight of an average that is left after dt.
func keepAfter(dt time.Duration) float64 { return math.Exp2(-dt.Seconds() / halfLife.Seconds()) }
