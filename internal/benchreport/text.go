// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"strings"
)

// Text returns the ratios and the verdicts for a terminal. It has one line per peer,
// because lines per metric would be too wide.
func (res Results) Text() string {
	heads := []struct{ key, head string }{
		{"miss_qps", "misses"}, {"miss1k_qps", "1,000"}, {"slow_qps", "20 ms"}, {"hit_qps", "hits"},
		{"p50_us", "p50"}, {"p99_us", "p99"}, {"miss_cpu", "cpu/miss"}, {"hit_cpu", "cpu/hit"},
		{"entry_bytes", "memory"}, {"conns", "conns"}, {"closed_us", "closed"},
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s", "sotto = 1")
	for _, h := range heads {
		fmt.Fprintf(&b, "%9s", h.head)
	}
	b.WriteString("\n")
	for _, p := range res.Peers {
		fmt.Fprintf(&b, "%-10s", p.Name)
		for _, h := range heads {
			cell := "-"
			if s := res.Ratio(p.Name, h.key); s.N > 0 {
				cell = ratio(s.Median)
			}
			fmt.Fprintf(&b, "%9s", cell)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, v := range res.Verdicts() {
		fmt.Fprintf(&b, "%-12s  %s: %s\n", strings.Trim(v.State, "*"), v.Goal, v.Figure)
	}
	return b.String()
}
