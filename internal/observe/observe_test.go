// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/durations"
)

// event is a query for a name from a workload.
func event(t *testing.T, name, workload string, rcode uint16, s forwarder.Source, d time.Duration) forwarder.Event {
	t.Helper()
	wireName, err := wire.AppendParsed(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	return forwarder.Event{
		Origin: forwarder.Origin{Workload: workload, Addr: netip.MustParseAddrPort("192.0.2.53:53")},
		Client: netip.MustParseAddrPort("198.51.100.1:4711"), Name: wireName, Type: 28, Class: 1, Rcode: rcode, Source: s, Duration: d,
	}
}

func TestTotals(t *testing.T) {
	var arrived []string
	h := Hub{Arrived: func(workload string) { arrived = append(arrived, workload) }}
	h.Observe(event(t, "a.example.", "/a", 0, forwarder.FromCache, 20*time.Microsecond))
	h.Observe(event(t, "a.example.", "/a", 3, forwarder.FromCache, 60*time.Microsecond))
	h.Observe(event(t, "a.example.", "/b", 2, forwarder.FromSotto, time.Minute))
	e := event(t, "a.example.", "/b", 4000, forwarder.FromUpstream, 0)
	e.TCP = true
	h.Observe(e)
	if fmt.Sprint(arrived) != "[/a /b]" {
		t.Errorf("new workloads: %v", arrived)
	}
	got := h.Totals()
	if got.Queries != 4 || got.TCP != 1 {
		t.Errorf("totals %+v", got)
	}
	hits := got.BySource[forwarder.FromCache]
	if hits.Queries != 2 || hits.Rcodes[0] != 1 || hits.Rcodes[3] != 1 || hits.Sum != 80*time.Microsecond {
		t.Errorf("hits %+v", hits)
	}
	if p50, p99 := hits.Quantile(0.5), hits.Quantile(0.99); p50/time.Microsecond != 21 || p99/time.Microsecond != 61 {
		t.Errorf("quantiles %v, %v", p50, p99)
	}
	if up := got.BySource[forwarder.FromUpstream]; up.Rcodes[len(up.Rcodes)-1] != 1 || up.Buckets[0] != 1 {
		t.Errorf("upstream %+v", up)
	}
	if late := got.BySource[forwarder.FromSotto]; late.Buckets[durations.Buckets-1] != 1 {
		t.Errorf("a minute is in bucket %v", late.Buckets)
	}
	a, b := WorkloadCounts{Name: "/a", Queries: 2, Cached: 2, Seconds: 80e-6}, WorkloadCounts{Name: "/b", Queries: 2, Failed: 1, Seconds: 60}
	want := []WorkloadCounts{a, b}
	if got := h.Workloads(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("workloads %v, want %v", got, want)
	}
	h.Forget(func(name string) bool { return name == "/a" })
	a.Name, a.Forgotten = Other, 2
	want = []WorkloadCounts{b, a}
	if got := h.Workloads(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("workloads after one is gone %v, want %v", got, want)
	}
}

// TestWorkloadLimit: more workloads than the limit cost no more memory.
func TestWorkloadLimit(t *testing.T) {
	var h Hub
	for i := range MaxWorkloads + 10 {
		h.Observe(event(t, "a.example.", fmt.Sprintf("/w%04d", i), 0, forwarder.FromCache, 0))
	}
	got := h.Workloads()
	if len(got) != MaxWorkloads+1 || got[0].Name != Other || got[0].Queries != 10 {
		t.Errorf("%d workloads, first %v", len(got), got[0])
	}
}

func TestTraceFilters(t *testing.T) {
	for _, tc := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "a.example. b.A.example. xa.example. ."},
		{Filter{Name: "A.example"}, "a.example. b.A.example."},
		{Filter{Name: "."}, "a.example. b.A.example. xa.example. ."},
		{Filter{Workload: "/s"}, "b.A.example."},
		{Filter{Workload: "/s/x"}, "b.A.example."},
		{Filter{Workload: "/sy"}, "xa.example."},
		{Filter{Type: "aaaa"}, "a.example. b.A.example. xa.example. ."},
		{Filter{Type: "A"}, ""},
		{Filter{Rcode: "nxdomain"}, "xa.example."},
		{Filter{Source: "upstream"}, "b.A.example."},
		{Filter{Min: time.Millisecond}, "b.A.example."},
	} {
		var h Hub
		tr := h.Trace(tc.f)
		h.Observe(event(t, "a.example.", "/", 0, forwarder.FromCache, 0))
		h.Observe(event(t, "b.A.example.", "/s/x", 0, forwarder.FromUpstream, time.Millisecond))
		h.Observe(event(t, "xa.example.", "/sy", 3, forwarder.FromCache, 0))
		h.Observe(event(t, ".", "/", 0, forwarder.FromRule, 0))
		var got []string
		for len(tr.Events()) > 0 {
			got = append(got, (<-tr.Events()).Name)
		}
		tr.Close()
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: %q, want %q", tc.f, got, tc.want)
		}
		if h.Tracing() {
			t.Error("there is a tracer after Close")
		}
	}
}

// TestTraceLoss: a tracer that is not read delays nothing, and counts what it lost.
func TestTraceLoss(t *testing.T) {
	var h Hub
	tr := h.Trace(Filter{})
	defer tr.Close()
	var wg sync.WaitGroup
	const n = 2 * traceBuffer
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				h.Observe(event(t, "a.example.", "/", 0, forwarder.FromCache, 0))
			}
		})
	}
	wg.Wait()
	if got, lost := len(tr.Events()), tr.Lost(); got != traceBuffer || lost != n-traceBuffer {
		t.Errorf("%d events, %d lost, want %d of each", got, lost, traceBuffer)
	}
	if lost := tr.Lost(); lost != 0 {
		t.Errorf("%d lost twice", lost)
	}
}

func TestRecord(t *testing.T) {
	e := event(t, "a.example.", "/s", 2, forwarder.FromSotto, 1500*time.Microsecond)
	e.TCP, e.Rule, e.Err = true, 3, errors.New("no upstream answered in time")
	r := NewRecord(&e, time.Unix(0, 0))
	want := Record{
		Time: time.Unix(0, 0), Workload: "/s", Client: e.Client, Nameserver: e.Origin.Addr, Proto: "tcp", Name: "a.example.",
		Type: "AAAA", Rcode: "SERVFAIL", Source: "sotto", Rule: 3, Millis: 1.5, Error: "no upstream answered in time",
	}
	if r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}

// TestRecordAttrs: a log line has every field of the JSON form, with the same key. slog adds
// the time.
func TestRecordAttrs(t *testing.T) {
	var full Record
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("json") == "-" {
			continue
		}
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = fmt.Sprint("text", i)
		case *int:
			*f = i
		case *uint64:
			*f = uint64(i)
		case *bool:
			*f = true
		case *float64:
			*f = float64(i) / 2
		case *time.Time:
			*f = time.Unix(int64(i), 0)
		case *Process:
			*f = Process{PID: 1, UID: 2, Comm: "program"}
		case *netip.AddrPort:
			*f = netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i))
		default:
			t.Fatalf("%T", f)
		}
	}
	for _, r := range []Record{full, {Client: full.Client}} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, got := map[string]any{}, map[string]any{}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		delete(want, "time")
		for key, v := range want {
			if v == "" {
				delete(want, key)
			}
		}
		for _, a := range r.Attrs(nil) {
			got[a.Key] = a.Value.Any()
			if a.Value.Kind() == slog.KindGroup {
				group := map[string]any{}
				for _, m := range a.Value.Group() {
					group[m.Key] = m.Value.Any()
				}
				got[a.Key] = group
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v\nwant %v", got, want)
		}
	}
}

// TestObserveAllocates: counting allocates nothing, with and without a tracer that does not
// match.
func TestObserveAllocates(t *testing.T) {
	var h Hub
	e := event(t, "a.example.", "/s", 0, forwarder.FromCache, 0)
	h.Observe(e)
	if n := testing.AllocsPerRun(100, func() { h.Observe(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	defer h.Trace(Filter{Workload: "/other"}).Close()
	if n := testing.AllocsPerRun(100, func() { h.Observe(e) }); n != 0 {
		t.Errorf("%v allocations for a tracer that does not match", n)
	}
}

func TestRecent(t *testing.T) {
	var r Recent
	var out strings.Builder
	log := slog.New(r.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))).With("a", 1)
	log.Info("not kept")
	log.WithGroup("g").Warn("kept, not printed", "b", 2)
	log.Error("kept and printed")
	got := r.Messages()
	if len(got) != 2 || got[0].Text != "kept and printed a=1" || got[1].Text != "kept, not printed a=1 g.b=2" || got[1].Level != "WARN" {
		t.Errorf("%+v", got)
	}
	if text := out.String(); strings.Contains(text, "not") || !strings.Contains(text, "kept and printed") {
		t.Errorf("printed %q", text)
	}
	for i := range 2 * maxRecent {
		log.Warn(fmt.Sprint(i))
	}
	if got := r.Messages(); len(got) != maxRecent || got[0].Text != fmt.Sprintf("%d a=1", 2*maxRecent-1) {
		t.Errorf("%d messages, first %+v", len(got), got[0])
	}
}

func BenchmarkObserve(b *testing.B) {
	var h Hub
	name, _ := wire.AppendParsed(nil, "www.example.com.")
	e := forwarder.Event{Origin: forwarder.Origin{Workload: "/system.slice/app.service"}, Name: name, Source: forwarder.FromCache, Duration: time.Microsecond}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.Observe(e)
		}
	})
}

// TestSelects: a text selects by path, including cgroups below it, or by the whole name with or
// without its kind.
func TestSelects(t *testing.T) {
	for _, tc := range []struct {
		text, workload, name string
		want                 bool
	}{
		{"/a", "/a/b", "", true}, {"/a", "/ab", "", false}, {"/", "/a", "docker:web", true},
		{"docker:web", "/a", "docker:web", true}, {"web", "/a", "docker:web", true}, {"we", "/a", "docker:web", false},
		{"1000/db", "/a", "podman:1000/db", true}, {"db", "/a", "podman:1000/db", false},
		{"nginx.service", "/a", "nginx.service", true}, {"", "/a", "", false}, {"a", "/a", "", false},
	} {
		if got := Selects(tc.text, tc.workload, tc.name); got != tc.want {
			t.Errorf("%q selects %s, %q: %t", tc.text, tc.workload, tc.name, got)
		}
	}
}
