// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"sotto/forwarder"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// view is what the template shows.
type view struct {
	status.Status
	Now       time.Time
	Up        string
	Tiles     []tile
	Plots     []plot
	Groups    []groupView
	Workloads []workloadView
	More      int // workloads that are not shown
	Facts     []fact
	Stopped   []fact // what the guard stopped
	Log       []message
}

// unknown stands for the workload of queries whose cgroup is not known.
const unknown = "unknown"

type tile struct{ Name, Value, Note, Class string }

type fact struct{ Name, Value string }

type message struct{ Age, Level, Text string }

type groupView struct {
	Name, Policy string
	Servers      []serverView
}

type serverView struct {
	status.Server
	Rate, Usual, P95 string
	Notes            []string
}

type workloadView struct {
	Name, Rate, Failed, Cached, Mean string
	Path                             string // "" if it is the name
	Queries                          uint64
	Plot                             plot
	rate                             float64
}

// newView describes a status at the time now. nameOf returns the name of a workload, or "".
func newView(st status.Status, s series, workloads []observe.WorkloadCounts, nameOf func(string) string, now time.Time) *view {
	v := &view{Status: st, Now: now, Up: status.Duration(now.Sub(st.Started))}
	v.tiles(s)
	v.Plots = plots(s)
	for _, g := range st.Groups {
		v.Groups = append(v.Groups, newGroup(&g, s, now))
	}
	v.workloads(workloads, s)
	v.names(nameOf)
	v.facts()
	for _, m := range st.Messages {
		v.Log = append(v.Log, message{status.Duration(now.Sub(m.Time)), m.Level, m.Text})
	}
	return v
}

func (v *view) tiles(s series) {
	perSecond, failing := s.current(all), s.current(failed)
	v.Tiles = append(v.Tiles,
		tile{Name: "Queries", Value: perSecondText(perSecond), Note: fmt.Sprintf("%d in all", v.Queries.Total)})
	if v.Cache != nil {
		v.Tiles = append(v.Tiles, tile{Name: "From the cache", Value: percent(v.Cache.HitRate()), Note: "of all lookups"})
	}
	class := ""
	if failing > 0 {
		class = "bad"
	}
	v.Tiles = append(v.Tiles, tile{Name: "Failed", Value: perSecondText(failing), Note: "SERVFAIL and errors", Class: class})
	up, servers := 0, 0
	for _, g := range v.Status.Groups {
		for _, u := range g.Servers {
			servers++
			if u.State == "up" {
				up++
			}
		}
	}
	class = ""
	if up < servers {
		class = "bad"
	}
	v.Tiles = append(v.Tiles, tile{Name: "Upstreams up", Value: fmt.Sprintf("%d of %d", up, servers), Class: class,
		Note: "p99 " + microsText(v.Queries.UpstreamP99Micros)})
	if v.Seal != nil {
		v.Tiles = append(v.Tiles, tile{Name: "Virtual addresses", Value: fmt.Sprint(v.Seal.SlotsUsed), Note: fmt.Sprintf("of %d in use", v.Seal.SlotsTotal)})
	}
}

func plots(s series) []plot {
	var p50, p99 []float64
	for i := 1; i < len(s); i++ {
		p50, p99 = append(p50, s[i].p50.Seconds()), append(p99, s[i].p99.Seconds())
	}
	return []plot{
		newPlot("Queries per second", perSecondText,
			curve{"cache", "cache", s.rates(bySource(forwarder.FromCache, forwarder.FromStale, forwarder.FromShared, forwarder.FromKernel)), true, false},
			curve{"upstream", "upstream", s.rates(bySource(forwarder.FromUpstream)), true, false},
			curve{"other", "rules and others", s.rates(bySource(forwarder.FromSotto, forwarder.FromRule, forwarder.FromNameserver, forwarder.FromLocal)), true, false},
			curve{"failed", "failed", s.rates(failed), false, false}),
		newPlot("Time to an upstream's answer", secondsText,
			curve{"p99", "99 of 100 within", p99, false, true}, curve{"p50", "half within", p50, false, true}),
	}
}

func newGroup(g *status.Group, s series, now time.Time) groupView {
	out := groupView{Name: g.Name, Policy: g.Policy}
	for _, u := range g.Servers {
		out.Servers = append(out.Servers, serverView{
			Server: u, Rate: perSecondText(s.current(ofServer(serverKey{g.Name, u.Server}))),
			Usual: millisText(u.UsualMillis), P95: millisText(u.P95Millis), Notes: u.Notes(now),
		})
	}
	return out
}

func (v *view) workloads(all []observe.WorkloadCounts, s series) {
	for _, w := range all {
		name := w.Name
		if name == "" {
			name = unknown
		}
		n := max(float64(w.Queries), 1)
		counter := ofWorkload(w.Name)
		r := s.current(counter)
		v.Workloads = append(v.Workloads, workloadView{
			Name: name, Rate: perSecondText(r), rate: r, Queries: w.Queries,
			Failed: percent(float64(w.Failed) / n), Cached: percent(float64(w.Cached) / n), Mean: secondsText(w.Seconds / n),
			Plot: newPlot("queries per second of "+name, perSecondText, curve{"upstream", name, s.rates(counter), false, false}),
		})
	}
	slices.SortStableFunc(v.Workloads, func(a, b workloadView) int { return cmp.Compare(b.rate, a.rate) })
	if more := len(v.Workloads) - maxWorkloads; more > 0 {
		v.More, v.Workloads = more, v.Workloads[:maxWorkloads]
	}
}

// names replaces the paths of the workloads that are shown by their names.
func (v *view) names(nameOf func(string) string) {
	for i := range v.Workloads {
		w := &v.Workloads[i]
		if name := nameOf(w.Name); w.Name != unknown && name != "" {
			w.Name, w.Path = status.Printable(name), w.Name
		}
	}
}

func (v *view) facts() {
	add := func(name, format string, args ...any) {
		v.Facts = append(v.Facts, fact{name, fmt.Sprintf(format, args...)})
	}
	if s := v.Seal; s != nil {
		for _, g := range s.Cgroups {
			add("Sealed", "%s", g)
		}
		for _, g := range s.Exclude {
			add("Excluded", "%s", g)
		}
		add("Virtual prefixes", "%s, %s", s.Prefix4, s.Prefix6)
		add("Local resolvers", "%s", s.LocalResolvers)
		add("Guard", "%s", s.Guard)
		for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
			if n := s.Counters[name]; n > 0 && status.IsGuard(name) {
				v.Stopped = append(v.Stopped, fact{name, fmt.Sprint(n)})
			}
		}
	}
	add("Rules", "%d", v.Rules)
	if c := v.Cache; c != nil {
		add("Cache", "%d answers, %s of %s", c.Entries, status.Size(c.Bytes), status.Size(c.MaxBytes))
	}
	for _, counts := range []struct {
		name string
		of   map[string]uint64
	}{{"Answers", v.Queries.Rcode}, {"Source", v.Queries.Source}} {
		for _, name := range slices.Sorted(maps.Keys(counts.of)) {
			add(counts.name+": "+name, "%d", counts.of[name])
		}
	}
	add("Waiting for upstreams", "%d questions, %d clients", v.Load.Misses, v.Load.Waiting)
	add("Client connections", "%d", v.Load.TCP)
	add("Refused", "%d over capacity, %d over the share of a workload", v.Load.Overloaded, v.Load.OverShare)
}

// perSecondText formats a rate.
func perSecondText(v float64) string {
	switch {
	case v == 0:
		return "0/s"
	case v < 9.95:
		return fmt.Sprintf("%.1f/s", v)
	case v < 9950:
		return fmt.Sprintf("%.0f/s", v)
	}
	return fmt.Sprintf("%.1fk/s", v/1000)
}

func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return "< 1 %"
	}
	return fmt.Sprintf("%.0f %%", 100*share)
}

// secondsText formats a short time.
func secondsText(s float64) string {
	switch {
	case s == 0:
		return "–"
	case s < 0.001:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case s < 0.01:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case s < 1:
		return fmt.Sprintf("%.0f ms", s*1e3)
	}
	return fmt.Sprintf("%.1f s", s)
}

func millisText(ms float64) string   { return secondsText(ms / 1e3) }
func microsText(micros int64) string { return secondsText(float64(micros) / 1e6) }
