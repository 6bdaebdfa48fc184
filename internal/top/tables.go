// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	"sotto/internal/observe"
	"sotto/internal/status"
)

// Sample has the data that a [Source] delivered in about a second.
type Sample struct {
	At     time.Time
	Status *status.Status // nil if it could not be read
	Err    error          // why not

	names    map[key]counts // from the trace
	lost     uint64         // queries that are missing in names
	traceErr error          // why there is no trace
}

// tables is everything that samples change.
type tables struct {
	workloads, names, upstreams table
	all                         table // one row: the sum of all workloads
	status                      *status.Status
	at                          time.Time         // of the last sample
	base                        time.Time         // of the last sample with a status; zero: none
	bases                       map[key]counts    // of workloads then
	servers                     map[key]counts    // of upstreams then
	titles                      map[string]string // names that people know, by the paths of workloads
	lost, seen                  float64           // queries per second of the trace, averaged
	distinct                    int               // number of names, whichever workloads ask for them
}

// add adds a sample. It reports whether its status is from another process than the last one.
func (t *tables) add(s Sample) (replaced bool) {
	if !t.at.IsZero() {
		dt := max(s.At.Sub(t.at), time.Millisecond)
		t.names.advance(s.names, dt)
		t.names.limit(maxNames)
		t.distinct = t.names.distinct()
		keep, seen := keepAfter(dt), uint64(0)
		for _, c := range s.names {
			seen += c.queries
		}
		t.seen = t.seen*keep + float64(seen)/dt.Seconds()*(1-keep)
		t.lost = t.lost*keep + float64(s.lost)/dt.Seconds()*(1-keep)
	}
	t.at = s.At
	if s.Status == nil {
		return false
	}
	replaced = t.status != nil && (t.status.PID != s.Status.PID || !t.status.Started.Equal(s.Status.Started))
	if replaced {
		t.base = time.Time{} // its counters have nothing to do with the last ones
	}
	t.status = s.Status
	t.addStatus(s.At)
	return replaced
}

func (t *tables) addStatus(at time.Time) {
	workloads, servers := map[key]counts{}, map[key]counts{}
	for i := range t.status.Workloads {
		w := &t.status.Workloads[i]
		workloads[key{name: w.Name}] = countsOf(w)
	}
	for _, g := range t.status.Groups {
		for _, s := range g.Servers {
			servers[key{g.Name, s.Server}] = counts{queries: s.Queries, failed: s.Failed}
		}
	}
	t.titles = map[string]string{}
	for i := range t.status.Workloads {
		if w := &t.status.Workloads[i]; w.WorkloadName != "" {
			t.titles[w.Name] = w.WorkloadName
		}
	}
	dt := at.Sub(t.base)
	if t.base.IsZero() || dt <= 0 {
		dt = 0
	}
	deltas := differences(workloads, t.bases, dt > 0)
	t.workloads.update(workloads, deltas, dt)
	t.upstreams.update(servers, differences(servers, t.servers, dt > 0), dt)
	var sum, total counts
	for _, d := range deltas {
		sum = sum.plus(d)
	}
	for _, c := range workloads {
		total = total.plus(c)
	}
	t.all.update(map[key]counts{{}: total}, map[key]counts{{}: sum}, dt)
	for k, r := range t.workloads.rows {
		r.called = t.titles[k.name]
	}
	for _, g := range t.status.Groups {
		for _, s := range g.Servers {
			t.upstreams.rows[key{g.Name, s.Server}].server = s
		}
	}
	t.base, t.bases, t.servers = at, workloads, servers
}

// differences returns how much each counter has grown. The counts of a workload that was forgotten
// were added to those of [observe.Other], which is no growth; it may be counted again, from zero.
func differences(now, before map[key]counts, known bool) map[key]counts {
	out := map[key]counts{}
	for k, c := range now {
		if known {
			c = c.minus(before[k])
		} else {
			c = counts{}
		}
		out[k] = c
	}
	other := key{name: observe.Other}
	if _, ok := now[other]; !ok {
		return out
	}
	for k, c := range before {
		n, ok := now[k]
		if !ok || n.queries < c.queries {
			out[other] = out[other].minus(c)
		}
		if ok && n.queries < c.queries {
			out[k] = n
		}
	}
	return out
}

// update replaces the rows by those of a status, which has counted deltas in dt; with dt = 0 the
// averages stay.
func (t *table) update(now, deltas map[key]counts, dt time.Duration) {
	t.retain(now)
	if dt > 0 {
		t.advance(deltas, dt)
	}
	if t.rows == nil {
		t.rows = map[key]*row{}
	}
	for k, c := range now {
		if t.rows[k] == nil {
			t.rows[k] = &row{key: k}
		}
		t.rows[k].total = c
	}
}

func (t *tables) clone() *tables {
	c := *t
	c.workloads, c.names, c.upstreams, c.all = t.workloads.clone(), t.names.clone(), t.upstreams.clone(), t.all.clone()
	return &c
}

// lostShare is the share of the queries that are missing in the names, from 0 to 1.
func (t *tables) lostShare() float64 {
	if t.lost < 0.05 {
		return 0
	}
	return t.lost / (t.lost + t.seen)
}
