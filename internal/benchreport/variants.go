// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"fmt"
	"slices"
	"strings"
)

// Sections of variants. Each compares misses of forwarders in another configuration, or of Sotto
// beside another workload.
const (
	sectionValidation = "DNSSEC validation"
	validating        = ", validating" // ends the names of rows with validation

	sectionFlood = "A workload that floods"
	besideSelf   = "beside datagrams to oneself"
	besideFlood  = "beside a flood, answered in the kernel"
)

// variantRun is one measured value of one row of a section.
type variantRun struct {
	section, row, metric string
	value                float64
}

// variantMetrics are the columns of the tables.
var variantMetrics = []metric{
	{"miss_qps", "", "", "misses/s, 100 outstanding", true, thousands},
	{"miss_cpu", "", "", "CPU s per million misses", false, tenths},
	{"p50_us", "", "", "p50 of misses, µs", false, thousands},
	{"p99_us", "", "", "p99 of misses, µs", false, thousands},
	{"flood_qps", "", "", "flood, answers/s", true, thousands},
	{"exec_ms", "", "", "`exec -- true`, ms", false, tenths},
	{"query1_us", "", "", "first query, µs", false, thousands},
	{"query2_us", "", "", "second query, µs", false, thousands},
}

// variantStat returns the summary of a metric of a row.
func (res Results) variantStat(section, row, metric string) Stat {
	var values []float64
	for _, r := range res.variantRuns {
		if r.section == section && r.row == row && r.metric == metric {
			values = append(values, r.value)
		}
	}
	return statOf(values)
}

// validation checks that validation leaves at least that share of the rate of misses.
func (res Results) validation(factor float64) Verdict {
	goal := fmt.Sprintf("misses/s with DNSSEC validation at least %.1f × without", factor)
	with, without := res.variantStat(sectionValidation, Sotto+validating, "miss_qps"), res.variantStat(sectionValidation, Sotto, "miss_qps")
	if with.N == 0 || without.N == 0 || without.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := with.Median / without.Median
	return verdict(goal, fmt.Sprintf("%s × (%s and %s)", ratio(r), thousands(with.Median), thousands(without.Median)), r >= factor)
}

// flood checks that a workload which floods the kernel's answers raises the latency of another one's
// misses by no more than that factor, compared with one that needs as much CPU and does not ask.
func (res Results) flood(factor float64) Verdict {
	goal := fmt.Sprintf("p99 of misses beside a flood of cached names at most %.1f × that beside datagrams to oneself", factor)
	flooded, busy := res.variantStat(sectionFlood, besideFlood, "p99_us"), res.variantStat(sectionFlood, besideSelf, "p99_us")
	if flooded.N == 0 || busy.N == 0 || busy.Median == 0 {
		return Verdict{goal, "", notMeasured}
	}
	r := flooded.Median / busy.Median
	return verdict(goal, fmt.Sprintf("%s × (%s µs and %s µs)", ratio(r), thousands(flooded.Median), thousands(busy.Median)), r <= factor)
}

// columns returns the metrics that a section has values of.
func (res Results) columns(section string) (list []metric) {
	for _, m := range variantMetrics {
		if slices.ContainsFunc(res.variantRuns, func(r variantRun) bool { return r.section == section && r.metric == m.Key }) {
			list = append(list, m)
		}
	}
	return list
}

// variants writes a table for each section.
func (res Results) variants(b *strings.Builder) {
	var sections []string
	for _, r := range res.variantRuns {
		if !slices.Contains(sections, r.section) {
			sections = append(sections, r.section)
		}
	}
	for _, section := range sections {
		fmt.Fprintf(b, "\n## %s\n\n%s| |", section, variantIntros[section])
		columns := res.columns(section)
		for _, m := range columns {
			fmt.Fprintf(b, " %s |", m.Short)
		}
		b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
		var rows []string
		for _, r := range res.variantRuns {
			if r.section != section || slices.Contains(rows, r.row) {
				continue
			}
			rows = append(rows, r.row)
			fmt.Fprintf(b, "| %s |", r.row)
			for _, m := range columns {
				fmt.Fprintf(b, " %s |", figure(res.variantStat(section, r.row, m.Key), m))
			}
			b.WriteString("\n")
		}
	}
}

var variantIntros = map[string]string{
	sectionValidation: `The upstream's zone is signed (ECDSA P-256, NSEC). Every name comes from a wildcard, so that each answer
has a signature and a proof that there is no closer name. Knot Resolver makes further answers from a validated wildcard
itself (RFC 8198 §5.3) instead of asking the upstream.

`,
	"The cost of a seal": `A command that does nothing, from the start of Sotto to its exit, with everything removed again; and
the latency of the first and of the second query of a command. The first one also opens the connection to the upstream.

`,
	sectionFlood: `Two sealed cgroups. One asks for 1,000 new names per second. Beside it, the other does nothing, sends
datagrams to itself as fast as one thread can, or asks for cached names as fast as that, in batches of 32. The second row is
what a busy neighbour costs that asks nothing, on cores that both share.

`,
	"DNS over HTTPS": `The upstream is dnsdist, which asks the nsd of the other measurements over UDP. It needs more of the
shared cores than nsd does over TLS, so these figures compare forwarders, and not protocols.

`,
	"DNS over QUIC": `The upstream is dnsproxy, which asks the nsd of the other measurements over UDP, and limits the rate.

`,
}
