// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"sotto/forwarder"
	"sotto/forwarder/tap"
	"sotto/internal/names"
)

// MaxWorkloads limits how many workloads are counted separately. Queries of others, which
// arrived later, are counted as [Other].
const MaxWorkloads = 1000

// crowded is the number of workloads from which on the places are scarce.
const crowded = MaxWorkloads / 4 * 3

// Other is the name of the workloads above [MaxWorkloads], and of those that were forgotten.
const Other = "other"

// Hub counts queries and feeds tracers. The zero value is ready for use. Its methods are safe
// for concurrent use.
type Hub struct {
	// Log, if set, is called for every query, like [forwarder.Config] Observe. Tap, if set,
	// receives DNS messages. Both are set before the first query.
	Log func(forwarder.Event)
	Tap tap.Func

	// Own, if not nil, recognizes the queries of this process by the address of their client.
	// Neither they nor their DNS messages should be passed to the hub. It is set before the
	// first query.
	Own func(client netip.AddrPort) bool

	// Arrived, if not nil, is called with the cgroup path of each new workload, on the path of
	// its first query. It is set before the first one.
	Arrived func(workload string)

	// Watch, if not nil, is called when a trace starts. The function that it returns is called
	// when the trace ends.
	Watch func() (stop func())

	// Describe, if not nil, adds to a record what is looked up only for those who read it. It
	// is set before the first query.
	Describe func(*Record)

	// Names, if not nil, returns the name of the workload with a cgroup path. It does not wait:
	// as long as the name is being looked up, it is zero. It is set before the first query.
	Names func(workload string) names.Name

	total     totals
	drops     [forwarder.Drops]atomic.Uint64
	workloads sync.Map // string → *Workload
	count     atomic.Int64
	other     Workload

	forgetting sync.Mutex // held while counts move to other
	forgotten  uint64     // queries that moved

	mu      sync.Mutex                // serializes changes of tracers
	tracers atomic.Pointer[[]*Tracer] // nil: none
}

// Workload holds the counters of one workload.
type Workload struct {
	queries, failed, cached atomic.Uint64
	micros                  atomic.Uint64
}

// IsOwn reports whether a client is this process. The hub may be nil.
func (h *Hub) IsOwn(client netip.AddrPort) bool { return h != nil && h.Own != nil && h.Own(client) }

// Observe counts a query and shows it to the tracers. It is a [forwarder.Config] Observe
// function.
func (h *Hub) Observe(e forwarder.Event) {
	h.total.add(&e)
	h.workload(e.Origin.Workload).add(&e)
	if h.Log != nil {
		h.Log(e)
	}
	h.Show(e)
}

// Show shows a query to the tracers, without counting it.
func (h *Hub) Show(e forwarder.Event) {
	if list := h.tracers.Load(); list != nil {
		for _, t := range *list {
			t.offer(&e)
		}
	}
}

// Repeated counts n queries of a workload that the kernel answered with that rcode from the cache.
// How long each took is not known: it is less than a query to the forwarder takes to arrive.
func (h *Hub) Repeated(workload string, rcode uint16, n uint64) {
	if n == 0 {
		return
	}
	h.total[0].rcodes[forwarder.FromKernel][min(rcode, maxRcode+1)].Add(n)
	w := h.workload(workload)
	w.queries.Add(n)
	w.cached.Add(n)
}

// workload returns the counters of a workload, which may be "".
func (h *Hub) workload(name string) *Workload {
	if w, ok := h.workloads.Load(name); ok {
		return w.(*Workload)
	}
	if h.count.Load() >= MaxWorkloads {
		return &h.other
	}
	w, found := h.workloads.LoadOrStore(name, new(Workload))
	if !found {
		h.count.Add(1)
		if h.Arrived != nil && name != "" {
			h.Arrived(name)
		}
	}
	return w.(*Workload)
}

func (w *Workload) add(e *forwarder.Event) {
	w.queries.Add(1)
	if failed(e) {
		w.failed.Add(1)
	}
	switch e.Source {
	case forwarder.FromCache, forwarder.FromStale, forwarder.FromShared, forwarder.FromKernel:
		w.cached.Add(1)
	}
	w.micros.Add(uint64(e.Duration.Microseconds()))
}

// WorkloadCounts are the counts of one workload since the start.
type WorkloadCounts struct {
	Name    string `json:"name"` // cgroup path; "" where it is unknown
	Queries uint64 `json:"queries"`
	Failed  uint64 `json:"failed"` // answered SERVFAIL, or with an error of Sotto
	Cached  uint64 `json:"cached"`
	// Seconds is the sum of the times from query to reply.
	Seconds float64 `json:"seconds"`
	// WorkloadName is the name that people know, such as "docker:web"; "" where it is unknown.
	WorkloadName string `json:"workload_name,omitempty"`
	// Forgotten is the part of Queries of [Other] that was counted for workloads of their own.
	Forgotten uint64 `json:"-"`
}

// NameOf returns the name of a workload, as far as it is known.
func (h *Hub) NameOf(workload string) names.Name {
	if h.Names == nil || workload == "" || workload == Other {
		return names.Name{}
	}
	return h.Names(workload)
}

// WorkloadName returns the name that people know for a workload, such as "docker:web", or "".
func (h *Hub) WorkloadName(workload string) string { return h.NameOf(workload).String() }

// Workloads returns the counts of all workloads, those with the most queries first, without their
// names.
func (h *Hub) Workloads() []WorkloadCounts {
	h.forgetting.Lock()
	defer h.forgetting.Unlock()
	out := []WorkloadCounts{}
	h.workloads.Range(func(name, w any) bool {
		out = append(out, w.(*Workload).counts(name.(string)))
		return true
	})
	if h.other.queries.Load() > 0 {
		other := h.other.counts(Other)
		other.Forgotten = h.forgotten
		out = append(out, other)
	}
	slices.SortFunc(out, func(a, b WorkloadCounts) int {
		switch {
		case a.Queries != b.Queries:
			if a.Queries > b.Queries {
				return -1
			}
			return 1
		case a.Name < b.Name:
			return -1
		}
		return 1
	})
	return out
}

func (w *Workload) counts(name string) WorkloadCounts {
	return WorkloadCounts{
		Name: name, Queries: w.queries.Load(), Failed: w.failed.Load(), Cached: w.cached.Load(),
		Seconds: float64(w.micros.Load()) / 1e6,
	}
}

// Crowded reports whether few places are left for new workloads.
func (h *Hub) Crowded() bool { return h.count.Load() >= crowded }

// Forget removes the counters of workloads for which gone returns true, and adds them to those
// of [Other]. A workload that asks again is a new one.
func (h *Hub) Forget(gone func(name string) bool) {
	h.forgetting.Lock()
	defer h.forgetting.Unlock()
	h.workloads.Range(func(name, v any) bool {
		if gone(name.(string)) && h.workloads.CompareAndDelete(name, v) {
			h.count.Add(-1)
			w := v.(*Workload)
			queries := w.queries.Load()
			h.forgotten += queries
			h.other.queries.Add(queries)
			h.other.failed.Add(w.failed.Load())
			h.other.cached.Add(w.cached.Load())
			h.other.micros.Add(w.micros.Load())
		}
		return true
	})
}
