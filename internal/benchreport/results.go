// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Sotto is the name of the peer with which the others are compared.
const Sotto = "sotto"

// Peer is one forwarder that was measured.
type Peer struct {
	Name    string
	Version string
	Go      bool // written in Go
}

// Note is a remark about one peer for the report.
type Note struct{ Peer, Text string }

// Run is one measured value of one peer.
type Run struct {
	Seq    int // increases with every start of a forwarder
	Peer   string
	Metric string
	Value  float64
}

// Results holds the raw results of a comparison.
type Results struct {
	Peers   []Peer
	Skipped []Note            // peers that were not measured, with the reason
	Failed  []Note            // failures of peers that were measured
	Meta    map[string]string // cores, kernel, rounds, seconds, entries, …
	Runs    []Run

	pathRuns    []pathRun // see [Results.Paths]
	variantRuns []variantRun
}

// Read parses raw results: lines of fields separated by tabs. The first field is the kind
// of line:
//
//	meta     KEY VALUE
//	peer     NAME VERSION LANGUAGE
//	skipped  NAME REASON
//	failed   NAME REASON
//	run      SEQ NAME METRIC VALUE
//	path     PATH METRIC VALUE
//	variant  SECTION ROW METRIC VALUE
func Read(r io.Reader) (Results, error) {
	res := Results{Meta: map[string]string{}}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		if err := res.line(strings.Split(sc.Text(), "\t")); err != nil {
			return res, fmt.Errorf("parse raw results, line %d: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return res, fmt.Errorf("read raw results: %w", err)
	}
	return res, nil
}

func (res *Results) line(f []string) error {
	want := map[string]int{"meta": 3, "peer": 4, "skipped": 3, "failed": 3, "run": 5, "path": 4, "variant": 5}[f[0]]
	if want == 0 {
		return fmt.Errorf("unknown kind of line %q", f[0])
	}
	if len(f) != want {
		return fmt.Errorf("%s has %d fields, want %d", f[0], len(f), want)
	}
	switch f[0] {
	case "meta":
		res.Meta[f[1]] = f[2]
	case "peer":
		res.Peers = append(res.Peers, Peer{Name: f[1], Version: f[2], Go: f[3] == "go"})
	case "skipped":
		res.Skipped = append(res.Skipped, Note{f[1], f[2]})
	case "failed":
		res.Failed = append(res.Failed, Note{f[1], f[2]})
	case "run":
		seq, err := strconv.Atoi(f[1])
		if err != nil {
			return fmt.Errorf("sequence number: %w", err)
		}
		value, err := strconv.ParseFloat(f[4], 64)
		if err != nil {
			return fmt.Errorf("value of %s: %w", f[3], err)
		}
		res.Runs = append(res.Runs, Run{seq, f[2], f[3], value})
	case "path":
		value, err := strconv.ParseFloat(f[3], 64)
		if err != nil {
			return fmt.Errorf("value of %s: %w", f[2], err)
		}
		res.pathRuns = append(res.pathRuns, pathRun{f[1], f[2], value})
	case "variant":
		value, err := strconv.ParseFloat(f[4], 64)
		if err != nil {
			return fmt.Errorf("value of %s: %w", f[3], err)
		}
		res.variantRuns = append(res.variantRuns, variantRun{f[1], f[2], f[3], value})
	}
	return nil
}

// Stat summarizes several runs of one peer.
type Stat struct {
	N                int // 0: not measured
	Median, Min, Max float64
}

// Stat returns the summary of a metric over all runs of a peer.
func (res Results) Stat(peer, metric string) Stat {
	var values []float64
	for _, r := range res.Runs {
		if r.Peer == peer && r.Metric == metric {
			values = append(values, r.Value)
		}
	}
	return statOf(values)
}

func statOf(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	slices.Sort(values)
	return Stat{len(values), median(values), values[0], values[len(values)-1]}
}

// median returns the median of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Ratio returns the summary of a peer's metric as a multiple of Sotto's. Each run is
// divided by Sotto's last run before it, which is minutes old, so that changes in the speed
// of the machine between rounds do not affect the result.
func (res Results) Ratio(peer, metric string) Stat {
	var ratios []float64
	for _, r := range res.Runs {
		if r.Peer != peer || r.Metric != metric {
			continue
		}
		if own, ok := res.sottoBefore(r.Seq, metric); ok && own > 0 {
			ratios = append(ratios, r.Value/own)
		}
	}
	if peer == Sotto && len(ratios) > 0 {
		return Stat{len(ratios), 1, 1, 1}
	}
	return statOf(ratios)
}

// sottoBefore returns Sotto's value of metric in its last run up to seq. If there is none,
// because the metric is measured only once, it returns the first value after seq.
func (res Results) sottoBefore(seq int, metric string) (value float64, ok bool) {
	best := 0
	for _, r := range res.Runs {
		if r.Peer != Sotto || r.Metric != metric {
			continue
		}
		if !ok || (r.Seq <= seq && (r.Seq > best || best > seq)) {
			value, best, ok = r.Value, r.Seq, true
		}
	}
	return value, ok
}
