// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"sotto/forwarder"
	"sotto/forwarder/wire"
	"sotto/internal/durations"
	"sotto/internal/names"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// full is a source with every figure.
func full(hub *observe.Hub) Source {
	counts := new(durations.Counts)
	counts.Buckets[0], counts.Buckets[40], counts.Buckets[durations.Buckets-1] = 1, 2, 3
	server := status.Server{
		Server: "192.0.2.1:853#dns.example", State: "up", CertExpiry: time.Unix(2e9, 0), Queries: 9, Failed: 3, Dials: 2,
		Errors: map[string]uint64{"timeout": 3}, RoundTrips: counts, Opened: counts,
	}
	st := status.Status{
		Version: "v1", Ready: true, Groups: []status.Group{{Name: "default", Servers: []status.Server{server}, DNSSEC: &status.Validation{Bogus: map[string]uint64{"bogus": 1}}}}, Cache: &status.Cache{Hits: 4},
		SharedCache: &status.SharedCache{State: "up", Found: 3},
		Seal: &status.Seal{Cgroups: []string{"/"}, Counters: map[string]uint64{"connect": 1, "stopped_packet": 2},
			KernelAnswers: status.KernelAnswers{State: "on", Verdicts: map[string]uint64{"answered": 1}}},
		Queries: status.Queries{Unanswered: map[string]uint64{"short": 1}},
	}
	return Source{Status: func() status.Status { return st }, Hub: hub}
}

func event(workload string, s forwarder.Source, d time.Duration) forwarder.Event {
	return forwarder.Event{Origin: forwarder.Origin{Workload: workload}, Client: netip.MustParseAddrPort("192.0.2.9:4711"), Source: s, Duration: d}
}

func gather(t *testing.T, from Source) map[string]*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(NewCollector(from))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*dto.MetricFamily{}
	for _, f := range families {
		out[f.GetName()] = f
	}
	return out
}

// TestList: every metric of the list occurs and no other, each with its type and labels, and
// promlint finds nothing to improve.
func TestList(t *testing.T) {
	var hub observe.Hub
	hub.Observe(event("/a", forwarder.FromCache, time.Millisecond))
	all := gather(t, full(&hub))
	var families []*dto.MetricFamily
	types := map[Type]dto.MetricType{Counter: dto.MetricType_COUNTER, Gauge: dto.MetricType_GAUGE, Histogram: dto.MetricType_HISTOGRAM}
	for _, m := range List() {
		f := all[m.Name]
		if f == nil {
			t.Errorf("%s does not occur", m.Name)
			continue
		}
		families = append(families, f)
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		want := slices.Sorted(slices.Values(m.Labels))
		if f.GetType() != types[m.Type] || !slices.Equal(labels, want) {
			t.Errorf("%s: %v with labels %v, want %v", m.Name, f.GetType(), labels, want)
		}
	}
	if len(families) != len(all) {
		t.Errorf("%d of %d metrics are in the list", len(families), len(all))
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}

// TestDurations: classic and native buckets agree with the durations that were observed.
func TestDurations(t *testing.T) {
	var hub observe.Hub
	times := []time.Duration{0, 3 * time.Microsecond, 20 * time.Microsecond, 21 * time.Microsecond, 4 * time.Millisecond, 9 * time.Second, time.Minute}
	sum := time.Duration(0)
	for _, d := range times {
		hub.Observe(event("/a", forwarder.FromCache, d))
		sum += d
	}
	h := gather(t, full(&hub))["sotto_query_duration_seconds"].Metric[0].Histogram
	if h.GetSampleCount() != uint64(len(times)) || h.GetSampleSum() != sum.Seconds() {
		t.Errorf("%d durations, sum %v", h.GetSampleCount(), h.GetSampleSum())
	}
	if len(h.Bucket) != lastClassic-firstClassic+1 {
		t.Errorf("%d classic buckets", len(h.Bucket))
	}
	for _, b := range h.Bucket {
		want := uint64(0)
		for _, d := range times {
			if d.Seconds() <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d durations up to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	native := h.GetZeroCount()
	count := int64(0)
	for _, delta := range h.PositiveDelta {
		count += delta
		native += uint64(count)
	}
	if native != h.GetSampleCount() || h.GetSchema() != durations.Schema || h.GetZeroThreshold() != 1.0/(1<<20) || h.GetZeroCount() != 1 {
		t.Errorf("native: %v", h)
	}
	if first := h.PositiveSpan[0].GetOffset(); int(first) != durations.Index(durations.Bucket(3*time.Microsecond)) {
		t.Errorf("the first native bucket is %d", first)
	}
}

// TestInvalidLabel: a cgroup whose name is not UTF-8 does not prevent scrapes.
func TestInvalidLabel(t *testing.T) {
	var hub observe.Hub
	for _, w := range []string{"", "/a\xff", "/a\xfe"} {
		hub.Observe(event(w, forwarder.FromCache, 0))
	}
	var got []string
	for _, m := range gather(t, full(&hub))["sotto_workload_queries_total"].Metric {
		got = append(got, m.Label[0].GetValue())
	}
	if want := []string{`"/a\xfe"`, `"/a\xff"`, "unknown"}; !slices.Equal(got, want) {
		t.Errorf("workloads %q, want %q", got, want)
	}
}

// TestWorkloadInfo: each workload with counters has one series with its name, which is its path as
// long as no name is known, and changes without a change of the counters.
func TestWorkloadInfo(t *testing.T) {
	known := map[string]names.Name{"/docker/1": {Kind: names.Docker, Name: "web"}, "/u": {Kind: names.Unit, Name: "a\xff.service"}}
	hub := observe.Hub{Names: func(workload string) names.Name { return known[workload] }}
	for _, w := range []string{"/docker/1", "/docker/2", "/u", ""} {
		hub.Observe(event(w, forwarder.FromCache, 0))
	}
	from := full(&hub)
	check := func(want map[string]string) {
		t.Helper()
		all := gather(t, from)
		got := map[string]string{}
		for _, m := range all["sotto_workload_info"].Metric {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			got[labels["workload"]] = labels["kind"] + " " + labels["name"]
		}
		if !maps.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		for _, m := range all["sotto_workload_queries_total"].Metric {
			if _, ok := want[m.Label[0].GetValue()]; !ok || len(m.Label) != 1 {
				t.Errorf("counter %v", m)
			}
		}
	}
	check(map[string]string{"/docker/1": "docker docker:web", "/docker/2": " /docker/2", "/u": `unit "a\xff.service"`, "unknown": " unknown"})
	known["/docker/2"] = names.Name{Kind: names.Docker, Name: "db"}
	check(map[string]string{"/docker/1": "docker docker:web", "/docker/2": "docker docker:db", "/u": `unit "a\xff.service"`, "unknown": " unknown"})
}

// BenchmarkScrape is what one scrape costs with the most workloads.
func BenchmarkScrape(b *testing.B) {
	var hub observe.Hub
	name, err := wire.AppendParsed(nil, "www.example.")
	if err != nil {
		b.Fatal(err)
	}
	for n := range observe.MaxWorkloads {
		e := event("/w"+string(rune('a'+n%26))+time.Duration(n).String(), forwarder.Source(n%int(forwarder.Sources)), time.Duration(n)*time.Millisecond)
		e.Name = name
		hub.Observe(e)
	}
	h := Handler(full(&hub), slog.New(slog.DiscardHandler))
	for accept, format := range map[string]string{"text": "text/plain", "protobuf": protobuf} {
		b.Run(accept, func(b *testing.B) {
			req := httptest.NewRequest("GET", "/metrics", nil)
			req.Header.Set("Accept", format)
			for b.Loop() {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, req); w.Code != 200 {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// protobuf is the format in which Prometheus requests native histograms.
const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
