// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"sotto/internal/status"
	"strconv"

	"github.com/charmbracelet/x/ansi"
)

const (
	// gap is the number of blanks between two columns.
	gap = 1

	// minName is the least width of the name.
	minName = 16

	// wide is the width from which more columns are shown.
	wide = 100
)

// column is a column of figures.
type column struct {
	title string
	width int
	order int // by which the column sorts; -1: none
	wide  bool
	text  func(*row) string
	style func(*row) ansi.Style // nil: none
}

var (
	rateColumn   = column{"rate/s", 7, byRate, false, func(r *row) string { return rate(r.rate) }, nil}
	failedColumn = column{"failed/s", 9, byFailures, false, func(r *row) string { return rate(r.failed) }, failedStyle}
	timeColumn   = column{"time", 8, byTime, false, func(r *row) string { return span(r.time()) }, nil}
	cachedColumn = column{"cached", 7, -1, false, func(r *row) string { return percent(r.share(r.cached)) }, nil}
	errorColumn  = column{"failed", 7, -1, true, func(r *row) string { return percent(r.share(r.failed)) }, failedStyle}
	totalColumn  = column{"queries", 11, -1, true, func(r *row) string { return strconv.FormatUint(r.total.queries, 10) }, nil}
)

// columns are the figures of each table.
var columns = [tabs][]column{
	workloadsTab: {rateColumn, failedColumn, errorColumn, timeColumn, cachedColumn, totalColumn},
	namesTab:     {rateColumn, failedColumn, errorColumn, timeColumn, cachedColumn, totalColumn},
	upstreamsTab: {
		{"state", 7, -1, false, func(r *row) string { return r.server.State }, stateStyle},
		rateColumn, failedColumn, timeColumn,
		{"p95", 8, -1, false, func(r *row) string { return millis(r.server.P95Millis) }, nil},
		{"pending", 8, -1, true, func(r *row) string { return strconv.Itoa(r.server.InFlight) }, nil},
		{"conns", 6, -1, true, func(r *row) string { return strconv.Itoa(r.server.Connections) }, nil},
		{"protocol", 9, -1, true, func(r *row) string { return r.server.Protocol }, nil},
		totalColumn,
	},
}

// nameTitles are the titles of the first column.
var nameTitles = [tabs]string{"workload", "name", "server"}

func millis(v float64) string {
	if v == 0 {
		return "-"
	}
	return span(v / 1000)
}

func failedStyle(r *row) ansi.Style {
	if r.failed >= leastRate {
		return red
	}
	return nil
}

func stateStyle(r *row) ansi.Style {
	switch r.server.State {
	case "up":
		return green
	case "down":
		return red
	}
	return yellow
}

// layout is how a table fits into a width.
type layout struct {
	columns []column
	name    int // width of the first column
	plot    int // width of the plot, which is the last column; 0: none
}

// layoutFor distributes the width. The plot gets a third of what the figures leave.
func layoutFor(tab, width int) layout {
	l := layout{}
	rest := width
	for _, c := range columns[tab] {
		if (c.wide && width < wide) || rest-c.width-gap < minName {
			continue
		}
		rest -= c.width + gap
		l.columns = append(l.columns, c)
	}
	if l.plot = min(history, (rest-gap)/3); l.plot < 8 {
		l.plot = 0
	} else {
		rest -= l.plot + gap
	}
	l.name = rest
	return l
}

// label is the name of a row, cut to the width.
func (p *page) label(r *row, width int) string {
	if p.tab == upstreamsTab {
		group := ansi.Truncate(fmt.Sprintf(" (%s)", status.Printable(r.group)), width/2, "…)")
		name := ansi.Truncate(p.name(r), width-ansi.StringWidth(group), "…")
		return fit(name+group, width)
	}
	return fitEnd(p.name(r), width)
}
