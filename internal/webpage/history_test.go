// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"net/netip"
	"testing"
	"time"

	"sotto/forwarder"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// fake is a source whose figures the test sets.
type fake struct {
	hub    observe.Hub
	status status.Status
}

func (f *fake) source() Source {
	return Source{Status: func() status.Status { return f.status }, Groups: func() []status.Group { return f.status.Groups }, Hub: &f.hub}
}

func (f *fake) query(workload string, s forwarder.Source, rcode uint16, d time.Duration) {
	f.hub.Observe(forwarder.Event{
		Origin: forwarder.Origin{Workload: workload}, Client: netip.MustParseAddrPort("192.0.2.9:4711"), Source: s, Rcode: rcode, Duration: d,
	})
}

func TestRates(t *testing.T) {
	var f fake
	f.status.Groups = []status.Group{{Name: "default", Servers: []status.Server{{Server: "a", Queries: 7}}}}
	h := NewHistory(f.source())
	at := time.Unix(1000, 0)
	h.sample(at)
	if s := h.series(); s.current(all) != 0 || len(s.rates(all)) != 0 {
		t.Errorf("rates of one sample: %v", s.rates(all))
	}
	for n := range 2 * maxSamples {
		for range n {
			f.query("/a", forwarder.FromCache, 0, time.Microsecond)
		}
		f.query("/b", forwarder.FromUpstream, 2, 20*time.Millisecond)
		f.status.Groups[0].Servers[0].Queries += 10
		at = at.Add(interval)
		h.sample(at)
	}
	s := h.series()
	if len(s) != maxSamples {
		t.Errorf("%d samples", len(s))
	}
	const last = 2*maxSamples - 1
	rates := s.rates(bySource(forwarder.FromCache))
	if len(rates) != maxSamples-1 || rates[len(rates)-1] != last/5.0 || rates[0] != (last-maxSamples+2)/5.0 {
		t.Errorf("rates of hits: %v", rates)
	}
	for name, tc := range map[string]struct{ got, want float64 }{
		"hits":       {s.current(bySource(forwarder.FromCache)), (last - 2.5) / 5},
		"failed":     {s.current(failed), 0.2},
		"workload":   {s.current(ofWorkload("/b")), 0.2},
		"upstream":   {s.current(ofServer(serverKey{"default", "a"})), 2},
		"no such":    {s.current(ofWorkload("/c")), 0},
		"p50":        {s[5].p50.Round(time.Millisecond).Seconds(), 0.020},
		"everything": {s.current(all), (last-2.5)/5 + 0.2},
	} {
		if tc.got-tc.want > 1e-9 || tc.want-tc.got > 1e-9 {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
	f.status.Groups[0].Servers[0].Queries = 5 // the group was replaced
	h.sample(at.Add(interval))
	if s := h.series(); rate(s[len(s)-2], s[len(s)-1], ofServer(serverKey{"default", "a"})) != 1 {
		t.Error("a counter that started again")
	}
}

// TestForgotten: counts of a workload that was forgotten are no queries of others.
func TestForgotten(t *testing.T) {
	var f fake
	h := NewHistory(f.source())
	at := time.Unix(1000, 0)
	for range 50 {
		f.query("/a", forwarder.FromCache, 0, time.Microsecond)
	}
	h.sample(at)
	f.hub.Forget(func(name string) bool { return name == "/a" })
	h.sample(at.Add(interval))
	if got := h.series().current(ofWorkload(observe.Other)); got != 0 {
		t.Errorf("others have %v queries per second", got)
	}
}

func TestPlot(t *testing.T) {
	p := newPlot("x", perSecondText, curve{"a", "a", []float64{1, 2}, true, false}, curve{"b", "b", []float64{3, 2}, true, false}, curve{"c", "c", []float64{0, 1}, false, false})
	for i, want := range []line{
		{"a", "a", "M58 75.0L59 50.0L59 100.0L58 100.0Z", "2.0/s"},
		{"b", "b", "M58 0.0L59 0.0L59 50.0L58 75.0Z", "2.0/s"},
		{"c", "c", "M58 100.0L59 75.0", "1.0/s"},
	} {
		if p.Lines[i] != want {
			t.Errorf("line %d: %+v, want %+v", i, p.Lines[i], want)
		}
	}
	if p.Max != "4.0/s" {
		t.Errorf("maximum %s", p.Max)
	}
	if p := newPlot("x", secondsText, curve{"a", "a", []float64{2, 0, 1, 2}, false, true}); p.Lines[0].Path != "M56 0.0h0M58 50.0h0L59 0.0" {
		t.Errorf("with a gap: %+v", p)
	}
	if p := newPlot("x", perSecondText, curve{"a", "a", nil, true, false}, curve{"b", "b", []float64{0, 0}, false, false}); p.Lines[0].Path != "" || p.Lines[1].Path != "M58 100.0L59 100.0" {
		t.Errorf("without values: %+v", p)
	}
}
