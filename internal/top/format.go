// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"math"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// leastRate is the lowest rate that is not shown as 0.
const leastRate = 0.05

// rate formats a number per second in at most five columns.
func rate(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v < leastRate:
		return "0"
	case v < 9.95:
		return fmt.Sprintf("%.1f", v)
	case v < 9999.5:
		return fmt.Sprintf("%.0f", v)
	case v < 999_500:
		return fmt.Sprintf("%.0fk", v/1e3)
	}
	return fmt.Sprintf("%.1fM", v/1e6)
}

// span formats a time in seconds in at most seven columns.
func span(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v < 999.5e-6:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case v < 99.95e-3:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case v < 999.5e-3:
		return fmt.Sprintf("%.0f ms", v*1e3)
	}
	return fmt.Sprintf("%.1f s", v)
}

// percent formats a share from 0 to 1.
func percent(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*v)
}

// fit cuts or pads s to the width in columns. Where it is cut there is a "…".
func fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	s = ansi.Truncate(s, width, "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

// fitEnd is fit, but it cuts at the start: the last part of a domain name or of a path says most.
func fitEnd(s string, width int) string {
	short := s
	for cut := ansi.StringWidth(s) - width + 1; width > 0 && ansi.StringWidth(short) > width; cut++ {
		short = ansi.TruncateLeft(s, cut, "…") // a wide character is cut as a whole
	}
	return fit(short, width)
}

// right pads s to the width at its start.
func right(s string, width int) string {
	return strings.Repeat(" ", max(0, width-ansi.StringWidth(s))) + ansi.Truncate(s, width, "…")
}

// levels are the bars of a plot, from the lowest. The full block is not used, so that the plots of
// two rows do not touch.
var levels = []rune(" ▁▂▃▄▅▆▇")

// plot draws the latest rates in the given number of columns, relative to the highest of them.
func plot(rates []float32, width int) string {
	width = max(width, 0)
	rates = rates[max(0, len(rates)-width):]
	top := float32(0)
	for _, v := range rates {
		top = max(top, v)
	}
	out := make([]rune, 0, width)
	for _, v := range rates {
		n := 0
		if v > 0 {
			n = max(1, int(math.Round(float64(v/top)*float64(len(levels)-1))))
		}
		out = append(out, levels[n])
	}
	return fit(string(out), width)
}
