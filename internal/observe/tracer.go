// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
)

// Record is one query of a trace, as `sotto trace --json` prints it. A query without a reply has
// Dropped, and no Rcode; its other fields are "" or 0 where they could not be read.
type Record struct {
	Time         time.Time      `json:"time"`                    // of the reply, or when the query was dropped
	Workload     string         `json:"workload,omitempty"`      // cgroup path
	WorkloadName string         `json:"workload_name,omitempty"` // that people know, such as "docker:web"
	Process      Process        `json:"process,omitzero"`        // zero if processes are not looked up
	Client       netip.AddrPort `json:"client"`                  // the sender, as the listener saw it
	Nameserver   netip.AddrPort `json:"nameserver,omitzero"`     // the original destination
	Proto        string         `json:"proto"`                   // "udp" or "tcp"
	Name         string         `json:"name"`                    // presentation form
	Type         string         `json:"type"`                    // mnemonic, or TYPE65280
	Rcode        string         `json:"rcode"`                   // mnemonic
	Source       string         `json:"source"`                  // see forwarder.Source, FromGuard, FromHooks
	Server       string         `json:"server,omitempty"`        // the upstream server that answered
	Dropped      string         `json:"dropped,omitempty"`       // why there is no reply: forwarder.Drop, or the kernel's counter
	Passed       bool           `json:"passed,omitempty"`        // it left in the clear: the guard only counts
	Rule         int            `json:"rule,omitempty"`          // number of the rule that matched
	Millis       float64        `json:"milliseconds"`            // from query to reply
	Error        string         `json:"error,omitempty"`         // why the query failed, or was dropped
	Lost         uint64         `json:"lost,omitempty"`          // events before this one that were lost

	// By these the process is looked up, see forwarder.Event.
	Virtual netip.Addr `json:"-"`
	ID      uint16     `json:"-"`
	Arrived time.Time  `json:"-"`
}

// Process is the process that sent a query.
type Process struct {
	PID  int    `json:"pid"` // in the initial PID namespace; 0: unknown
	UID  int    `json:"uid"` // -1: unknown
	Comm string `json:"comm"`
}

// UnknownProcess stands for a process that cannot be known.
var UnknownProcess = Process{UID: -1, Comm: "unknown"}

// Filter selects the queries of a trace. The zero value selects all.
type Filter struct {
	Workload string        // a cgroup path; includes all cgroups below it
	Name     string        // a domain name; includes all names below it
	Type     string        // mnemonic
	Rcode    string        // mnemonic, or RcodeNone
	Source   string        // see forwarder.Source, FromGuard, FromHooks
	Min      time.Duration // least duration
}

// traceBuffer is the number of events that a tracer stores for its reader.
const traceBuffer = 4096

// Tracer receives the queries that match its filter, from [Hub.Trace] until Close.
type Tracer struct {
	hub    *Hub
	filter Filter
	name   string // lower case, with a final dot
	events chan Record
	lost   atomic.Uint64
	stop   func() // of Hub.Watch
}

// Trace starts a trace.
func (h *Hub) Trace(f Filter) *Tracer {
	t := &Tracer{hub: h, filter: f, events: make(chan Record, traceBuffer), stop: func() {}}
	if h.Watch != nil {
		t.stop = h.Watch()
	}
	if f.Name != "" {
		t.name = strings.ToLower(strings.TrimSuffix(f.Name, ".")) + "."
	}
	h.change(func(list []*Tracer) []*Tracer { return append(list, t) })
	return t
}

// Close ends the trace.
func (t *Tracer) Close() {
	t.hub.change(func(list []*Tracer) []*Tracer {
		return slices.DeleteFunc(list, func(o *Tracer) bool { return o == t })
	})
	t.stop()
}

// change replaces the list of tracers by a copy.
func (h *Hub) change(change func([]*Tracer) []*Tracer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*Tracer
	if old := h.tracers.Load(); old != nil {
		list = slices.Clone(*old)
	}
	if list = change(list); len(list) == 0 {
		h.tracers.Store(nil)
		return
	}
	h.tracers.Store(&list)
}

// Tracing reports whether there is a tracer.
func (h *Hub) Tracing() bool { return h.tracers.Load() != nil }

// Events returns the channel of the trace. It is never closed.
func (t *Tracer) Events() <-chan Record { return t.events }

// Lost returns the number of events that were lost since the last call, because the reader
// was too slow.
func (t *Tracer) Lost() uint64 { return t.lost.Swap(0) }

// offer stores an event if it matches. It never blocks.
func (t *Tracer) offer(e *forwarder.Event) {
	if t.matches(e) {
		t.store(func() Record { return NewRecord(e, time.Now()) })
	}
}

// store stores a record, unless the reader is too slow.
func (t *Tracer) store(record func() Record) {
	if len(t.events) == cap(t.events) {
		t.lost.Add(1)
		return
	}
	select {
	case t.events <- record():
	default:
		t.lost.Add(1)
	}
}

func (t *Tracer) matches(e *forwarder.Event) bool {
	f := &t.filter
	return e.Duration >= f.Min &&
		(f.Source == "" || f.Source == e.Source.String()) &&
		(f.Workload == "" || isBelow(e.Origin.Workload, f.Workload)) &&
		(f.Type == "" || strings.EqualFold(f.Type, wire.TypeName(e.Type))) &&
		(f.Rcode == "" || strings.EqualFold(f.Rcode, wire.RcodeName(e.Rcode))) &&
		(t.name == "" || isSubdomain(e.Name, t.name))
}

// isBelow reports whether a cgroup is top or below it.
func isBelow(path, top string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(top, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// isSubdomain reports whether a name in wire form is zone or below it.
func isSubdomain(name []byte, zone string) bool {
	full := strings.ToLower(wire.Name(name))
	return zone == "." || full == zone || strings.HasSuffix(full, "."+zone)
}

// Attrs returns the record as attributes of a log line, with the keys that it has in JSON.
func (r *Record) Attrs(dst []slog.Attr) []slog.Attr {
	text := func(key, value string) {
		if value != "" {
			dst = append(dst, slog.String(key, value))
		}
	}
	text("workload", r.Workload)
	text("workload_name", r.WorkloadName)
	if r.Process != (Process{}) {
		dst = append(dst, slog.Group("process", slog.Int("pid", r.Process.PID), slog.Int("uid", r.Process.UID), slog.String("comm", r.Process.Comm)))
	}
	text("client", r.Client.String())
	if r.Nameserver.IsValid() {
		text("nameserver", r.Nameserver.String())
	}
	text("proto", r.Proto)
	text("name", r.Name)
	text("type", r.Type)
	text("rcode", r.Rcode)
	text("source", r.Source)
	text("server", r.Server)
	text("dropped", r.Dropped)
	if r.Passed {
		dst = append(dst, slog.Bool("passed", true))
	}
	if r.Rule != 0 {
		dst = append(dst, slog.Int("rule", r.Rule))
	}
	dst = append(dst, slog.Float64("milliseconds", r.Millis))
	text("error", r.Error)
	if r.Lost != 0 {
		dst = append(dst, slog.Uint64("lost", r.Lost))
	}
	return dst
}

// Complete adds to a record the name of the workload and the process, as far as they are known. Readers of
// [Tracer.Events] call it for the records that they use, soon after they received them.
func (h *Hub) Complete(r *Record) {
	if h.Describe != nil {
		h.Describe(r)
	}
}

// NewRecord describes an event that happened at the time now.
func NewRecord(e *forwarder.Event, now time.Time) Record {
	r := Record{
		Time: now, Workload: e.Origin.Workload, Client: e.Client, Nameserver: e.Origin.Addr, Proto: "udp",
		Name: wire.Name(e.Name), Type: wire.TypeName(e.Type), Rcode: wire.RcodeName(e.Rcode),
		Source: e.Source.String(), Server: e.Server, Rule: e.Rule, Millis: float64(e.Duration.Microseconds()) / 1000,
		Virtual: e.Origin.Virtual, ID: e.ID, Arrived: e.Start,
	}
	if e.TCP {
		r.Proto = "tcp"
	}
	if e.Err != nil {
		r.Error = e.Err.Error()
	}
	return r
}
