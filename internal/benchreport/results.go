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

// Sotto is what the others are compared with.
const Sotto = "sotto"

// Peer is one forwarder that took part.
type Peer struct {
	Name    string
	Version string
	Go      bool // written in Go
}

// Note is something about one peer that the reader must know.
type Note struct{ Peer, Text string }

// Run is one value of one peer.
type Run struct {
	Seq    int // grows with time: every start of a forwarder has its own
	Peer   string
	Metric string
	Value  float64
}

// Results are all that a comparison measured.
type Results struct {
	Peers   []Peer
	Skipped []Note            // peers that took no part, and why
	Failed  []Note            // what went wrong with those that did
	Meta    map[string]string // cores, kernel, rounds, seconds, entries, …
	Runs    []Run
}

// Read reads raw results, which are lines of fields separated by tabs; the first
// says what the others are:
//
//	meta     KEY VALUE
//	peer     NAME VERSION LANGUAGE
//	skipped  NAME REASON
//	failed   NAME WHAT
//	run      SEQ NAME METRIC VALUE
func Read(r io.Reader) (Results, error) {
	res := Results{Meta: map[string]string{}}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		if err := res.line(strings.Split(sc.Text(), "\t")); err != nil {
			return res, fmt.Errorf("line %d of the raw results: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return res, fmt.Errorf("read the raw results: %w", err)
	}
	return res, nil
}

func (res *Results) line(f []string) error {
	want := map[string]int{"meta": 3, "peer": 4, "skipped": 3, "failed": 3, "run": 5}[f[0]]
	if want == 0 {
		return fmt.Errorf("%q is no kind of line", f[0])
	}
	if len(f) != want {
		return fmt.Errorf("%s has %d fields: want %d", f[0], len(f), want)
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
	}
	return nil
}

// Stat is what several runs of one peer come to.
type Stat struct {
	N                int // 0: not measured
	Median, Min, Max float64
}

// Stat is a peer's metric over all its runs.
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

// median is the middle of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Ratio is a peer's metric as a multiple of Sotto's. Each run is set against
// Sotto's last run before it, minutes rather than a quarter of an hour away, so
// that a machine that slows down in between does not count for or against
// anybody; the result is over those ratios.
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

// sottoBefore is Sotto's value of metric in its last run up to seq; a measure that
// is taken once may have come later, and then that one is it.
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
