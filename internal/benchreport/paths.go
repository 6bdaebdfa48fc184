// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"slices"
	"strings"
)

// Names of the paths that the goals compare. Other paths are "NAME" (a forwarder that is queried
// directly) and "NAME, DNAT" (a forwarder that gets its queries by address translation).
const (
	pathLimit  = "a datagram to oneself"
	pathDNS    = "a datagram to oneself, to port 53"
	pathKernel = "seal, answered in the kernel"

	pathPeer = "unbound"
)

// pathRun is one measured value of one path.
type pathRun struct {
	path, metric string
	value        float64
}

// pathMetrics are the columns of the table of paths.
var pathMetrics = []metric{
	{"p50_us", "Round trip of a cached answer, one query at a time", "µs, median", "p50, µs", false, tenths},
	{"hit_qps", "Cached answers", "answers/s", "hits/s", true, thousands},
	{"hit_cpu", "CPU of the whole machine per million cached answers", "s", "CPU s per million hits, whole machine", false, tenths},
}

// Paths lists the paths that were measured, in order.
func (res Results) Paths() []string {
	var names []string
	for _, r := range res.pathRuns {
		if !slices.Contains(names, r.path) {
			names = append(names, r.path)
		}
	}
	return names
}

// PathStat returns the summary of a metric over all rounds of a path.
func (res Results) PathStat(path, metric string) Stat {
	var values []float64
	for _, r := range res.pathRuns {
		if r.path == path && r.metric == metric {
			values = append(values, r.value)
		}
	}
	return statOf(values)
}

// pathVerdicts returns the results for the goals of cached answers through the seal.
func (res Results) pathVerdicts() []Verdict {
	return []Verdict{
		res.pathAtMost("round trip of a hit through the seal at most 1.3 × that of a datagram to oneself", "p50_us", pathLimit, 1.3),
		res.pathAtMost("the same, of a datagram to oneself that is sent as a query is: to port 53", "p50_us", pathDNS, 1.3),
		res.pathAtMost("and at most a third of unbound's, queried directly", "p50_us", pathPeer, 1/3.0),
		res.pathAtMost("CPU of the whole machine per hit through the seal at most half of unbound's", "hit_cpu", pathPeer, 0.5),
		res.pathAtLeast("hits/s through the seal at least 2 × unbound", "hit_qps", pathPeer, 2),
	}
}

func (res Results) pathAtMost(goal, key, other string, factor float64) Verdict {
	own, theirs := res.PathStat(pathKernel, key), res.PathStat(other, key)
	if own.N == 0 || theirs.N == 0 || theirs.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := own.Median / theirs.Median
	return verdict(goal, fmt.Sprintf("%s × (%s and %s)", ratio(r), tenths(own.Median), tenths(theirs.Median)), r <= factor)
}

func (res Results) pathAtLeast(goal, key, other string, factor float64) Verdict {
	own, theirs := res.PathStat(pathKernel, key), res.PathStat(other, key)
	if own.N == 0 || theirs.N == 0 || theirs.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := own.Median / theirs.Median
	return verdict(goal, fmt.Sprintf("%s × (%s and %s)", ratio(r), thousands(own.Median), thousands(theirs.Median)), r >= factor)
}

// paths writes the section about cached answers through the seal.
func (res Results) paths(b *strings.Builder) {
	names := res.Paths()
	if len(names) == 0 {
		return
	}
	b.WriteString(pathsIntro)
	b.WriteString("| |")
	for _, m := range pathMetrics {
		fmt.Fprintf(b, " %s |", m.Short)
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(pathMetrics)) + "\n")
	for _, name := range names {
		fmt.Fprintf(b, "| %s |", name)
		for _, m := range pathMetrics {
			fmt.Fprintf(b, " %s |", figure(res.PathStat(name, m.Key), m))
		}
		b.WriteString("\n")
	}
}

const pathsIntro = `
## Cached answers through the seal

A program in a sealed cgroup asks 8.8.8.8. For comparison: forwarders that are asked directly
on loopback; the same forwarders with a rule of nftables that translates 8.8.8.8 to them
(DNAT), which is the usual way to catch the queries of programs that know nothing of it; and
a datagram that a process sends to itself over loopback, which is the least that an exchange
of datagrams costs. Where something else watches DNS, such as a security agent in the kernel,
it costs a query more than that; so the datagram is also sent as a query is: to port 53, and to
an address that is not one of loopback.

![Cached answers through the seal](benchmarks-hits.svg)

`

// PathsSVG returns docs/benchmarks-hits.svg: a panel for each metric of the paths, with the
// best path on top. It is "" if no path was measured.
func (res Results) PathsSVG() string {
	names := res.Paths()
	if len(names) == 0 {
		return ""
	}
	const labels, width = 250, 900
	height := topHeight + len(pathMetrics)*(headHeight+barStep*len(names)+panelGap) + margin/2
	b := newPlot(width, height, "Cached answers through the seal", fmt.Sprintf(
		"1,000 names; medians of one run on %s cores, which client and forwarder share; best on top", res.Meta["cores"]))
	y := topHeight
	for _, m := range pathMetrics {
		var bars []bar
		for _, name := range names {
			if s := res.PathStat(name, m.Key); s.N > 0 {
				bars = append(bars, bar{name, s.Median, strings.HasPrefix(name, "seal") || strings.HasPrefix(name, Sotto)})
			}
		}
		sortBars(bars, m)
		panel{m, bars, width - 2*margin, labels}.draw(b, margin, y)
		y += headHeight + barStep*len(names) + panelGap
	}
	b.WriteString("</svg>\n")
	return b.String()
}
