// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"sotto/internal/observe"
)

// names returns the first column of the rows.
func (s *screen) names() (out []string) {
	for _, r := range s.page().rows {
		out = append(out, s.page().name(r))
	}
	return out
}

func (s *screen) wantNames(want ...string) {
	s.t.Helper()
	if got := s.names(); !slices.Equal(got, want) {
		s.t.Errorf("rows %q, want %q", got, want)
	}
}

// TestAverages: constant rates are shown exactly, from the first sample.
func TestAverages(t *testing.T) {
	s := newScreen(t, 80, 24)
	for range 3 {
		s.run(1)
		r := s.page().rows[0]
		if math.Abs(r.rate-100) > 1e-9 || math.Abs(r.failed-2) > 1e-9 || math.Abs(r.share(r.cached)-0.5) > 1e-9 || math.Abs(r.time()-0.005) > 1e-9 {
			t.Errorf("%+v", r)
		}
	}
	s.contains("/system.slice/web.service", " 100 ", " 2.0 ", " 5.0 ms ", " 50 % ")
	s.status.Workloads[0].Queries += 1000
	s.now = s.now.Add(10 * time.Second) // a sample of ten seconds
	s.sample(nil)
	if r := s.page().rows[0]; r.plot[history-1] != 100 {
		t.Errorf("1000 queries in 10 s are drawn as %v per second", r.plot[history-1])
	}
}

// TestRemovedWorkload: counts of a removed workload that move to "other" are no queries.
func TestRemovedWorkload(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.status.Workloads = append(s.status.Workloads, observe.WorkloadCounts{Name: observe.Other, Queries: 7})
	s.run(2)
	gone := s.status.Workloads[0]
	s.status.Workloads = s.status.Workloads[1:]
	s.status.Workloads[3].Queries += gone.Queries + 5
	s.now = s.now.Add(time.Second)
	s.sample(nil)
	r := s.live.workloads.rows[key{name: observe.Other}]
	if r.plot[history-1] != 5 || r.total.queries != 7+gone.Queries+5 {
		t.Errorf("other: %v queries in the last second, %d in total", r.plot[history-1], r.total.queries)
	}
	s.lacks("web.service")
	// The next one is counted again, from zero, before the sample.
	gone = s.status.Workloads[0]
	s.status.Workloads[0].Queries, s.status.Workloads[0].Failed, s.status.Workloads[0].Cached, s.status.Workloads[0].Seconds = 2, 0, 0, 0
	s.status.Workloads[3].Queries += gone.Queries + 1
	s.now = s.now.Add(time.Second)
	s.sample(nil)
	again := s.live.workloads.rows[key{name: gone.Name}]
	if r.plot[history-1] != 1 || again.plot[history-1] != 2 {
		t.Errorf("in the last second %v queries of others, and %v of the workload that is counted again", r.plot[history-1], again.plot[history-1])
	}
}

func TestOrder(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(20)
	long := "very-long-label.very-long-label.very-long-label.very-long-label.very-long-label.very-long-label.very-long-label.very-long-label.example.org."
	s.press("2")
	s.wantNames("www.example.com.", long, "down.example.net.")
	s.contains("rate/s▾")
	s.press("s")
	s.wantNames("down.example.net.", "www.example.com.", long)
	s.contains("failed/s▾")
	s.press("s")
	s.wantNames("down.example.net.", "www.example.com.", long)
	s.contains("time▾")
	s.press("s")
	s.wantNames("down.example.net.", long, "www.example.com.")
	s.contains("name▾")
	s.press("s")
	s.contains("rate/s▾")
	s.press("tab", "s")
	s.wantNames("192.0.2.2:853#dns.example", "192.0.2.1:853#dns.example", "[2001:db8::1]:853#a-long-name-of-a-server.corp.example")
	s.press("s")
	if got := s.names()[0]; got != "192.0.2.1:853#dns.example" {
		t.Errorf("the slowest upstream is %s", got)
	}
	s.press("tab")
	s.contains("rate/s▾") // each table has its own order
}

func TestFilter(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(2)
	s.press("2", "/", "W", "w", "W", ".")
	s.wantNames("www.example.com.")
	s.contains("filter: WwW.", "enter keep the filter")
	s.press("q") // typed, not a command
	s.wantNames()
	s.contains("no name contains the filter")
	s.press("backspace", "enter")
	s.wantNames("www.example.com.")
	s.press("/", "x", "esc")
	s.wantNames("www.example.com.")
	s.press("/", "ctrl+u", "esc", "esc")
	if got := len(s.names()); got != 3 {
		t.Errorf("%d names without a filter", got)
	}
	s.press("/")
	s.Update(tea.PasteMsg{Content: "net.\n"})
	s.wantNames()
	s.press("backspace", "enter", "tab", "/", "c", "o", "r", "p", "enter")
	s.wantNames("[2001:db8::1]:853#a-long-name-of-a-server.corp.example")
	s.press("/")
	if !s.press("ctrl+c") {
		t.Error("ctrl-c does not quit while the filter is typed")
	}
}

func TestDrillDown(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(10)
	s.press("down", "enter")
	s.wantNames("www.example.com.")
	s.contains("Names of …", "Browser-4711.scope")
	s.press("esc")
	if r := s.page().row(); s.page().tab != workloadsTab || r.name != s.status.Workloads[1].Name {
		t.Errorf("back at %+v", r)
	}
	s.press("up", "enter")
	if got := len(s.names()); got != 3 {
		t.Errorf("%d names of web", got)
	}
	s.press("tab")
	s.contains("www.example.com.")
	s.lacks("Names of")
	s.press("2", "enter") // there is nothing below a name
	s.lacks("Names of")
}

// TestWorkload starts with the names of a workload, by its name, its path or one above it.
func TestWorkload(t *testing.T) {
	for text, want := range map[string]int{"docker:shop": 3, "shop": 3, "/system.slice": 3, "/system.slice/web.service": 3, "docker:db": 0, "/user.slice": 1} {
		s := newScreen(t, 80, 24)
		s.status.Workloads[0].WorkloadName = "docker:shop"
		s.Model = NewModel(&s.status, text)
		s.size(80, 24)
		s.sample(nil)
		s.run(10)
		if got := len(s.names()); got != want {
			t.Errorf("%s: %d names, want %d", text, got, want)
		}
		s.contains("Names of ")
		s.press("esc")
		s.contains("docker:shop")
	}
}

// TestFriendlyNames: a workload is called by its name as soon as that is known, the filter matches
// name and path, and the line below shows the path of the selected one.
func TestFriendlyNames(t *testing.T) {
	s := newScreen(t, 80, 24)
	browser := &s.status.Workloads[1]
	browser.WorkloadName = "user:1000/browser.scope"
	s.run(5)
	s.contains("user:1000/browser.scope")
	s.lacks("Browser-4711")
	s.press("down")
	s.contains("app-org.example.Browser-4711.scope")
	s.press("/", "4", "7", "1", "1", "enter")
	s.wantNames("user:1000/browser.scope")
	s.press("enter")
	s.contains("Names of user:1000/browser.scope")
}

// TestSelection: the selection stays at its row when the order changes, and at the top if it
// is there.
func TestSelection(t *testing.T) {
	s := newScreen(t, 80, 10)
	rows := map[key]counts{}
	for i := range 100 {
		rows[key{"/a", fmt.Sprintf("n%02d.", i)}] = counts{queries: uint64(200 - i)}
	}
	advance := func() {
		s.now = s.now.Add(time.Second)
		s.sample(rows)
	}
	advance()
	s.press("2", "pgdown")
	want := func(name, position string) {
		s.t.Helper()
		if got := s.page().row().name; got != name {
			s.t.Errorf("selected is %s, want %s", got, name)
		}
		s.contains(name, position)
	}
	want("n04.", "rows 2 to 5 of 100")
	rows[key{"/a", "n04."}] = counts{queries: 9000}
	advance()
	want("n04.", "rows 1 to 4 of 100")
	s.press("end")
	want("n99.", "rows 97 to 100 of 100")
	s.press("home")
	rows[key{"/a", "n50."}] = counts{queries: 90_000}
	advance()
	want("n50.", "rows 1 to 4 of 100")
}

func TestPause(t *testing.T) {
	s := newScreen(t, 80, 24)
	s.run(5)
	s.press("p")
	before := s.text()
	s.run(5)
	if got := s.text(); got != before {
		t.Errorf("it changed while paused:\n%s\nbefore:\n%s", got, before)
	}
	s.contains("paused")
	s.press("2", "s", "enter")
	s.contains("www.example.com.")
	s.press("p")
	s.lacks("paused")
	if got := s.live.workloads.rows[key{name: s.status.Workloads[0].Name}].plot[history-10]; got != 100 {
		t.Errorf("the plot has a gap: %v", got)
	}
}

// TestManyNames: names above the limit are added up for each workload.
func TestManyNames(t *testing.T) {
	var names table
	deltas := map[key]counts{{"/a", "busy."}: {queries: 10}}
	for i := range maxNames + 500 {
		deltas[key{fmt.Sprintf("/w%d", i%2), fmt.Sprintf("n%d.", i)}] = counts{queries: 1}
	}
	names.advance(deltas, time.Second)
	names.limit(maxNames)
	if got := len(names.rows); got != maxNames+2 {
		t.Errorf("%d rows", got)
	}
	others := names.rows[key{"/w0", observe.Other}].total.queries + names.rows[key{"/w1", observe.Other}].total.queries
	if others != 501 || names.rows[key{"/a", "busy."}] == nil {
		t.Errorf("%d queries for other names, want 501", others)
	}
	for range history {
		names.advance(nil, time.Second)
		names.limit(maxNames)
	}
	if len(names.rows) != 0 {
		t.Errorf("%d rows after a minute without queries", len(names.rows))
	}

	deltas = map[key]counts{}
	for i := range maxNames + 2*maxOthers {
		deltas[key{fmt.Sprintf("/w%d", i), "n."}] = counts{queries: 1}
	}
	names.advance(deltas, time.Second)
	names.limit(maxNames)
	if got := len(names.rows); got != maxNames+maxOthers+1 || names.rows[key{observe.Other, observe.Other}].total.queries != maxOthers {
		t.Errorf("%d rows of many workloads", got)
	}
}

func TestQuit(t *testing.T) {
	s := newScreen(t, 80, 24)
	for _, keys := range [][]string{{"q"}, {"ctrl+c"}, {"?", "q"}} {
		if !s.press(keys...) {
			t.Errorf("%v does not quit", keys)
		}
	}
	if s.press("x") || s.press("esc") {
		t.Error("it quits with another key")
	}
}
