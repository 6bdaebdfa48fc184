// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"net/netip"
	"strings"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

// Values of [Record] Source for queries without a reply that never reached the listener.
const (
	FromGuard = "guard" // dropped as a packet
	FromHooks = "hooks" // refused when a program connected or sent
)

// RcodeNone is the value of [Filter] Rcode for queries without a reply.
const RcodeNone = "none"

// Drop is a query that the kernel half refused or dropped.
type Drop struct {
	Time     time.Time
	Workload string  // cgroup path; "" if it is unknown
	Process  Process // [UnknownProcess] if it is unknown

	// Client is the sender, invalid if it is unknown. Nameserver is where the query was sent.
	Client, Nameserver netip.AddrPort
	TCP                bool
	Message            []byte // possibly only its start, or nil; valid during the call

	Source string // [FromGuard] or [FromHooks]
	Reason string // name of the counter
	Text   string // the reason in words
	Passed bool   // the guard only counts, and let the packet pass
	Lost   uint64 // drops before this one that are not shown
}

// Dropped counts a query that gets no reply, and shows it to the tracers. It is a
// [forwarder.Config] Dropped function.
func (h *Hub) Dropped(e forwarder.Event) {
	h.drops[min(e.Drop, forwarder.Drops-1)].Add(1)
	h.show(0, func(t *Tracer) bool {
		return t.matchesDrop(e.Origin.Workload, forwarder.FromSotto.String(), e.Name, e.Type, e.Duration)
	}, func() Record {
		r := NewRecord(&e, time.Now())
		r.Rcode, r.Source, r.Dropped = "", forwarder.FromSotto.String(), e.Drop.String()
		if r.Error = e.Drop.Text(); e.Err != nil {
			r.Error += ": " + e.Err.Error()
		}
		return unquestioned(r, e.Name)
	})
}

// KernelDropped shows a query that never reached the listener to the tracers. The counters of
// the kernel have counted it.
func (h *Hub) KernelDropped(d Drop) {
	q := wire.Outline(d.Message)
	h.show(d.Lost, func(t *Tracer) bool { return t.matchesDrop(d.Workload, d.Source, q.Name, q.Type, 0) }, func() Record {
		r := Record{
			Time: d.Time, Workload: d.Workload, Process: d.Process, Client: d.Client, Nameserver: d.Nameserver, Proto: "udp",
			Name: wire.Name(q.Name), Type: wire.TypeName(q.Type), Source: d.Source, Dropped: d.Reason, Passed: d.Passed, Error: d.Text,
		}
		if d.TCP {
			r.Proto = "tcp"
		}
		return unquestioned(r, q.Name)
	})
}

// unquestioned removes name and type if there was no question that could be read.
func unquestioned(r Record, name []byte) Record {
	if len(name) == 0 {
		r.Name, r.Type = "", ""
	}
	return r
}

// show stores a record for each tracer that matches, and counts lost ones.
func (h *Hub) show(lost uint64, matches func(*Tracer) bool, record func() Record) {
	list := h.tracers.Load()
	if list == nil {
		return
	}
	for _, t := range *list {
		t.lost.Add(lost)
		if matches(t) {
			t.store(record)
		}
	}
}

// matchesDrop reports whether the filter selects a query without a reply. A name or type that
// could not be read matches none.
func (t *Tracer) matchesDrop(workload, source string, name []byte, typ uint16, d time.Duration) bool {
	f := &t.filter
	return d >= f.Min &&
		(f.Source == "" || f.Source == source) &&
		(f.Workload == "" || isBelow(workload, f.Workload)) &&
		(f.Rcode == "" || strings.EqualFold(f.Rcode, RcodeNone)) &&
		(f.Type == "" || len(name) > 0 && strings.EqualFold(f.Type, wire.TypeName(typ))) &&
		(t.name == "" || len(name) > 0 && isSubdomain(name, t.name))
}

// Unanswered returns how many queries that reached the listener got no reply since the start,
// by reason.
func (h *Hub) Unanswered() map[string]uint64 {
	out := map[string]uint64{}
	for why := range forwarder.Drops {
		if n := h.drops[why].Load(); n > 0 {
			out[why.String()] = n
		}
	}
	return out
}
