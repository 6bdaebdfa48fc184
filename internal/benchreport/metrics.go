// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"strconv"
)

// metric is one row of the tables.
type metric struct {
	Key    string
	Title  string // in the plot
	Unit   string // in the plot; "" for a count
	Short  string // in the tables
	Higher bool   // higher is better
	Format func(float64) string
}

// metrics lists all metrics in the order of the tables.
var metrics = []metric{
	{"miss_qps", "Unique misses, 100 outstanding", "answers/s", "misses/s, 100 outstanding", true, thousands},
	{"miss1k_qps", "Unique misses, 1,000 outstanding", "answers/s", "misses/s, 1,000 outstanding", true, thousands},
	{"slow_qps", "Misses, upstream 20 ms away", "answers/s", "misses/s, upstream 20 ms away", true, thousands},
	{"hit_qps", "Hits", "answers/s", "hits/s", true, thousands},
	{"p50_us", "Median latency at 5,000 q/s", "µs", "p50 at 5,000 q/s, µs", false, whole},
	{"p99_us", "p99 latency at 5,000 q/s", "µs", "p99 at 5,000 q/s, µs", false, whole},
	{"miss_cpu", "CPU per million misses", "s", "CPU s per million misses", false, tenths},
	{"hit_cpu", "CPU per million hits", "s", "CPU s per million hits", false, tenths},
	{"entry_bytes", "Memory per cached answer", "bytes", "bytes per cached answer", false, whole},
	{"conns", "TLS connections, 1,000 outstanding", "", "TLS connections, 1,000 outstanding", false, whole},
	{"closed_us", "First query after an idle close", "µs", "first query after an idle close, µs", false, whole},
	{"kept_us", "Query on an open connection", "µs", "query on an open connection, µs", false, whole},
}

func metricOf(key string) metric {
	for _, m := range metrics {
		if m.Key == key {
			return m
		}
	}
	panic("unknown metric " + key)
}

// thousands formats a rate with three significant digits, the precision of a run.
func thousands(v float64) string {
	if v < 1000 {
		return whole(v)
	}
	round := 100.0
	if v >= 100_000 {
		round = 1000
	}
	n := int(v/round+0.5) * int(round)
	return grouped(n)
}

func whole(v float64) string { return grouped(int(v + 0.5)) }

// grouped returns n with a comma between groups of three digits.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

func tenths(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func ratio(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
