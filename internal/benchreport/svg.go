// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// plotted lists the metrics in the plot, row by row.
var plotted = []string{"miss_qps", "miss1k_qps", "hit_qps", "p99_us", "miss_cpu", "hit_cpu", "entry_bytes", "slow_qps"}

// Dimensions of the plot in pixels.
const (
	columns    = 2
	margin     = 24
	panelWidth = 430
	labelWidth = 84 // names, to the left of the bars
	valueWidth = 66 // figures, to the right of them
	barStep    = 20
	barHeight  = 14
	headHeight = 34 // a panel's title
	topHeight  = 58 // the plot's title
	panelGap   = 18
)

const (
	ownColour   = "#0b6e4f"
	otherColour = "#9fb3c8"
	textColour  = "#1f2933"
	dimColour   = "#52606d"
)

type bar struct {
	name  string
	value float64
	own   bool // Sotto's
}

// SVG returns docs/benchmarks.svg: a panel for each measured metric, with the best
// forwarder on top.
func (res Results) SVG() string {
	var panels []panel
	for _, key := range plotted {
		m := metricOf(key)
		if bars := res.bars(m); len(bars) > 0 {
			panels = append(panels, panel{m, bars, panelWidth, labelWidth})
		}
	}
	panelHeight := headHeight + barStep*len(res.Peers) + panelGap
	rows := (len(panels) + columns - 1) / columns
	b := newPlot(margin+columns*(panelWidth+margin), topHeight+rows*panelHeight+margin/2,
		"sotto serve and other forwarders, DNS to DNS over TLS", fmt.Sprintf(
			"medians of one run on %s cores shared with load generator and upstream; best on top", res.Meta["cores"]))
	for i, p := range panels {
		p.draw(b, margin+(i%columns)*(panelWidth+margin), topHeight+(i/columns)*panelHeight)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// newPlot returns the start of a plot: its frame, title and subtitle.
func newPlot(width, height int, title, subtitle string) *strings.Builder {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, margin, 26, 17, "start", textColour, true, title)
	text(&b, margin, 45, 12, "start", dimColour, false, subtitle)
	return &b
}

// bars returns a bar for each forwarder with a value of the metric, best first.
func (res Results) bars(m metric) []bar {
	var bars []bar
	for _, p := range res.Peers {
		if s := res.Stat(p.Name, m.Key); s.N > 0 {
			bars = append(bars, bar{p.Name, s.Median, p.Name == Sotto})
		}
	}
	sortBars(bars, m)
	return bars
}

// sortBars sorts bars, best first.
func sortBars(bars []bar, m metric) {
	slices.SortStableFunc(bars, func(a, b bar) int {
		switch {
		case a.value == b.value:
			return 0
		case (a.value > b.value) == m.Higher:
			return -1
		}
		return 1
	})
}

// panel is the part of a plot that shows one metric.
type panel struct {
	metric metric
	bars   []bar // best first
	width  int
	labels int // width of the names, to the left of the bars
}

// draw draws the panel with its upper left corner at x and y.
func (p panel) draw(b *strings.Builder, x, y int) {
	hint := p.metric.Unit + ", less is better"
	if p.metric.Higher {
		hint = p.metric.Unit + ", more is better"
	}
	text(b, x, y+16, 13, "start", textColour, true, p.metric.Title)
	text(b, x+p.width, y+16, 11, "end", dimColour, false, hint)
	longest := 0.0
	for _, bar := range p.bars {
		longest = max(longest, bar.value)
	}
	for i, bar := range p.bars {
		top := y + headHeight + i*barStep
		room := float64(p.width - p.labels - valueWidth)
		length := 1.0
		if longest > 0 {
			length = max(1, room*bar.value/longest)
		}
		colour := otherColour
		if bar.own {
			colour = ownColour
		}
		text(b, x+p.labels-8, top+11, 12, "end", textColour, bar.own, bar.name)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x+p.labels, top, length, barHeight, colour)
		text(b, x+p.labels+int(length)+6, top+11, 12, "start", dimColour, bar.own, p.metric.Format(bar.value))
	}
}

func text(b *strings.Builder, x, y, size int, anchor, colour string, bold bool, s string) {
	weight := ""
	if bold {
		weight = ` font-weight="bold"`
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="%d" text-anchor="%s" fill="%s"%s>`, x, y, size, anchor, colour, weight)
	_ = xml.EscapeText(b, []byte(s)) // writes to a Builder do not fail
	b.WriteString("</text>\n")
}
