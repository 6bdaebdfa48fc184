// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"sotto/internal/observe"
	"sotto/internal/status"
)

// The tables, in the order of their tabs.
const (
	workloadsTab = iota
	namesTab
	upstreamsTab
	tabs
)

// The orders of rows, in the order in which they are selected.
const (
	byRate = iota
	byFailures
	byTime
	byName
	orders
)

// page is a table as it is shown: a tab, or the names of one workload.
type page struct {
	tab      int
	workload *string // of the names, as in observe.Selects if wide is set; nil: of all workloads
	wide     bool
	title    string // name that people know for the workload; "": unknown
	order    int
	filter   string
	selected *key // nil: the first row, whichever that is
	top      int  // index of the first row on the screen

	rows   []*row // those that match the filter, in order
	cursor int    // index of the selected row
}

// refresh computes the rows. height is the number of rows on the screen.
func (p *page) refresh(t *tables, height int) {
	switch p.tab {
	case workloadsTab:
		p.rows = t.workloads.list(p.matches)
	case upstreamsTab:
		p.rows = t.upstreams.list(p.matches)
	case namesTab:
		p.rows = t.names.list(func(r *row) bool { return p.of(t, r.group) && p.matches(r) })
		if p.workload == nil || p.wide {
			p.rows = merged(p.rows)
		}
		if p.workload != nil {
			p.title = t.titles[*p.workload]
		}
	}
	slices.SortFunc(p.rows, p.compare)
	p.cursor = 0
	if p.selected != nil {
		if p.cursor = slices.IndexFunc(p.rows, func(r *row) bool { return r.key == *p.selected }); p.cursor < 0 {
			p.cursor, p.selected = 0, nil
		}
	}
	p.scroll(height)
}

// of reports whether the page has the names of a workload.
func (p *page) of(t *tables, workload string) bool {
	switch {
	case p.workload == nil:
		return true
	case p.wide:
		return observe.Selects(*p.workload, workload, t.titles[workload])
	}
	return workload == *p.workload
}

// scroll moves the first row so that the selected one is on the screen.
func (p *page) scroll(height int) {
	height = max(height, 1)
	p.top = min(p.top, max(0, len(p.rows)-height))
	p.top = max(min(p.top, p.cursor), p.cursor-height+1)
}

// move selects the row that is n rows below.
func (p *page) move(n, height int) {
	p.cursor = max(0, min(p.cursor+n, len(p.rows)-1))
	p.selected = nil
	if p.cursor > 0 {
		k := p.rows[p.cursor].key
		p.selected = &k
	}
	p.scroll(height)
}

// row returns the selected row, nil if there is none.
func (p *page) row() *row {
	if p.cursor >= len(p.rows) {
		return nil
	}
	return p.rows[p.cursor]
}

// matches reports whether the name of a row contains the filter, whatever the case. Workloads
// match by their path as well.
func (p *page) matches(r *row) bool {
	text := p.name(r)
	switch p.tab {
	case upstreamsTab:
		text += " " + r.group
	case workloadsTab:
		text += " " + r.name
	}
	return strings.Contains(strings.ToLower(text), strings.ToLower(p.filter))
}

// name is how a row is called on the screen.
func (p *page) name(r *row) string {
	switch {
	case r.called != "":
		return status.Printable(r.called)
	case r.name == "":
		return "unknown"
	}
	return status.Printable(r.name)
}

// compare orders rows: the highest value first, and by name where it is equal.
func (p *page) compare(a, b *row) int {
	c := 0
	switch p.order {
	case byRate:
		c = compareShown(b.rate, a.rate)
	case byFailures:
		c = cmp.Or(compareShown(b.failed, a.failed), compareShown(b.rate, a.rate))
	case byTime:
		c = cmp.Compare(orZero(b.time()), orZero(a.time()))
	}
	return cmp.Or(c, cmp.Compare(p.name(a), p.name(b)), cmp.Compare(a.group, b.group))
}

// compareShown compares rates, of which those too low to be shown are equal: rows without queries
// keep their order.
func compareShown(a, b float64) int {
	shown := func(v float64) float64 {
		if v < leastRate {
			return 0
		}
		return v
	}
	return cmp.Compare(shown(a), shown(b))
}

func orZero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}
