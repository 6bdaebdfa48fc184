// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"fmt"
	"slices"
	"strings"
)

// The size of a plot in units of its own: one for each interval between two rates.
const (
	plotWidth  = maxSamples - 2
	plotHeight = 100
)

// line is one line or area of a plot.
type line struct {
	Class, Name string
	Path        string // of an SVG
	Now         string // current value
}

// plot is a plot of the last minutes.
type plot struct {
	Title, Max string // Max is the value at the top
	Lines      []line
}

// Width and Height are the size in units of the paths.
func (plot) Width() int  { return plotWidth }
func (plot) Height() int { return plotHeight }

// curve is a line before it has a scale. Its last value is the latest.
type curve struct {
	class, name string
	values      []float64
	filled      bool // an area above the previous filled curve
	gaps        bool // zero means that there is no value
}

// newPlot scales curves to a common maximum, which format describes.
func newPlot(title string, format func(float64) string, curves ...curve) plot {
	var base []float64 // the upper edge of the areas so far
	top := 0.0
	for i := range curves {
		c := &curves[i]
		if base == nil {
			base = make([]float64, len(c.values))
		}
		if !c.filled {
			top = max(top, peak(c.values))
			continue
		}
		sum := slices.Clone(base)
		for at, v := range c.values {
			sum[at] += v
		}
		top, base = max(top, peak(sum)), sum
	}
	p := plot{Title: title, Max: format(top)}
	if base != nil {
		clear(base)
	}
	for _, c := range curves {
		l := line{Class: c.class, Name: c.name, Now: "–"}
		if len(c.values) > 0 {
			l.Now = format(c.values[len(c.values)-1])
		}
		if c.filled {
			sum := slices.Clone(base)
			for at, v := range c.values {
				sum[at] += v
			}
			l.Path = areaPath(base, sum, top)
			base = sum
		} else {
			l.Path = linePath(c.values, top, c.gaps)
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

func peak(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Max(values)
}

// linePath is an SVG path through the values, which end at the right edge. With gaps it leaves out
// those that are zero; a value between two gaps is a dot.
func linePath(values []float64, top float64, gaps bool) string {
	var b strings.Builder
	start := true
	for i, v := range values {
		switch {
		case gaps && v == 0:
			start = true
			continue
		case start:
			b.WriteString(point("M", i, len(values), v, top))
			if gaps {
				b.WriteString("h0")
			}
		default:
			b.WriteString(point("L", i, len(values), v, top))
		}
		start = false
	}
	return b.String()
}

// areaPath is an SVG path around the area between two lines.
func areaPath(low, high []float64, top float64) string {
	if len(high) < 2 {
		return ""
	}
	b := linePath(high, top, false)
	for i := len(low) - 1; i >= 0; i-- {
		b += point("L", i, len(low), low[i], top)
	}
	return b + "Z"
}

func point(command string, i, n int, v, top float64) string {
	y := float64(plotHeight)
	if top > 0 {
		y -= v / top * plotHeight
	}
	return fmt.Sprintf("%s%d %.1f", command, plotWidth-n+1+i, y)
}
