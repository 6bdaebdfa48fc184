// SPDX-License-Identifier: Apache-2.0

package benchreport

import (
	"encoding/xml"
	"io"
	"strconv"
	"strings"
	"testing"
)

// raw holds the results of three forwarders in two rounds, on a machine that was half as
// fast in the second round.
const raw = `meta	cores	2
meta	kernel	6.1
meta	rounds	2
meta	seconds	5
meta	entries	1,000,000
peer	sotto	dev	go
peer	unbound	1.17.1	c
peer	coredns	v1.15.0	go
skipped	blocky	does not build
failed	coredns	exited in round 2
run	1	sotto	miss_qps	40000
run	1	sotto	miss1k_qps	44000
run	1	sotto	hit_qps	200000
run	1	sotto	p99_us	300
run	1	sotto	conns	2
run	1	sotto	miss_cpu	10
run	1	sotto	hit_cpu	4
run	2	unbound	miss_qps	20000
run	2	unbound	miss1k_qps	40000
run	2	unbound	hit_qps	190000
run	2	unbound	p99_us	250.4
run	3	sotto	miss_qps	40000
run	3	sotto	conns	5
run	4	coredns	miss_qps	16000
run	4	coredns	miss1k_qps	11000
run	4	coredns	hit_cpu	7.9
run	4	coredns	miss_cpu	30
run	5	sotto	miss_qps	20000
run	5	sotto	miss1k_qps	22000
run	6	unbound	miss_qps	10000
run	6	unbound	miss1k_qps	20000
run	6	direct	miss_qps	25000
run	7	sotto	entry_bytes	500
run	8	unbound	entry_bytes	500
run	9	sotto	closed_us	480
run	9	sotto	kept_us	400
path	a datagram to oneself	p50_us	4
path	a datagram to oneself	p50_us	4.2
path	a datagram to oneself, to port 53	p50_us	4.2
path	seal, answered in the kernel	p50_us	5.3
path	seal, answered in the kernel	hit_cpu	3
path	seal, answered in the kernel	hit_qps	500000
path	unbound	p50_us	17
path	unbound	hit_cpu	6
path	unbound	hit_qps	260000
path	unbound, DNAT	p50_us	19
variant	DNSSEC validation	sotto	miss_qps	10000
variant	DNSSEC validation	sotto, validating	miss_qps	7000
variant	DNSSEC validation	sotto, validating	miss_cpu	12
variant	A workload that floods	beside datagrams to oneself	p99_us	1000
variant	A workload that floods	beside a flood, answered in the kernel	p99_us	1100
variant	DNS over QUIC	routedns	miss_qps	5000
`

func read(t *testing.T, text string) Results {
	t.Helper()
	res, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"walk\t1":                          `line 1: unknown kind of line "walk"`,
		"meta\tcores\t2\n\npeer\tsotto":    "line 3: peer has 2 fields, want 4",
		"run\tx\tsotto\tmiss_qps\t1":       "sequence number",
		"path\tunbound\tp50_us\tfast":      "value of p50_us",
		"run\t1\tsotto\tmiss_qps\tquickly": "value of miss_qps",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

func TestStat(t *testing.T) {
	res := read(t, raw)
	for _, tc := range []struct {
		peer, metric string
		want         Stat
	}{
		{"sotto", "miss_qps", Stat{3, 40000, 20000, 40000}},
		{"unbound", "miss_qps", Stat{2, 15000, 10000, 20000}},
		{"unbound", "conns", Stat{}},
	} {
		if got := res.Stat(tc.peer, tc.metric); got != tc.want {
			t.Errorf("%s of %s: %+v, want %+v", tc.metric, tc.peer, got, tc.want)
		}
	}
}

// TestRatio checks that each run is divided by Sotto's run before it, so that the slower
// round has no effect: the ratio of unbound's medians would be 15,000 to 40,000.
func TestRatio(t *testing.T) {
	res := read(t, raw)
	for _, tc := range []struct {
		peer, metric string
		want         float64
		n            int
	}{
		{"unbound", "miss_qps", 0.5, 2},
		{"coredns", "miss_qps", 0.4, 1},
		{"sotto", "miss_qps", 1, 3},
		{"unbound", "entry_bytes", 1, 1},
		{"coredns", "entry_bytes", 0, 0},
	} {
		if got := res.Ratio(tc.peer, tc.metric); got.Median != tc.want || got.N != tc.n {
			t.Errorf("%s of %s: %+v, want %v of %d", tc.metric, tc.peer, got, tc.want, tc.n)
		}
	}
}

// TestRatioLater checks that a later value of Sotto is used if there is no earlier one.
func TestRatioLater(t *testing.T) {
	res := read(t, "run\t1\tunbound\tentry_bytes\t300\nrun\t2\tsotto\tentry_bytes\t600\nrun\t3\tsotto\tentry_bytes\t100")
	if got := res.Ratio("unbound", "entry_bytes"); got.Median != 0.5 {
		t.Errorf("%+v, want 0.5", got)
	}
}

func TestVerdicts(t *testing.T) {
	states := func(text string) (s []string) {
		for _, v := range read(t, text).Verdicts() {
			s = append(s, v.State)
		}
		return s
	}
	// Misses: 2 and 1.1 of unbound's, 2.5 and 4 of CoreDNS's, 0.8 of the direct ones; connections 5 once;
	// hits 1.05; p99 300 to 250; CPU of hits 1.975; memory equal; idle 1.2.
	// Paths: 5.3 to 4.1, to 4.2 and to 17, CPU a half, 1.92 of unbound's rate.
	want := []string{notMet, met, met, notMet, met, notMet, notMet, met, met, met, met, met, met, met, met, notMet}
	if got := states(raw); strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("verdicts %v\nwant     %v", got, want)
	}
	// One figure each, the other way.
	flipped := strings.NewReplacer(
		"unbound\tmiss1k_qps\t40000", "unbound\tmiss1k_qps\t30000",
		"unbound\tmiss1k_qps\t20000", "unbound\tmiss1k_qps\t15000",
		"coredns\tmiss_qps\t16000", "coredns\tmiss_qps\t21000",
		"direct\tmiss_qps\t25000", "direct\tmiss_qps\t25001",
		"conns\t5", "conns\t4",
		"unbound\thit_qps\t190000", "unbound\thit_qps\t210000",
		"250.4", "301",
		"hit_cpu\t7.9", "hit_cpu\t8",
		"unbound\tentry_bytes\t500", "unbound\tentry_bytes\t499",
		"closed_us\t480", "closed_us\t481", "p99_us\t1100", "p99_us\t1201", "miss_qps\t7000", "miss_qps\t6999",
		"p50_us\t5.3", "p50_us\t5.7", "unbound\thit_cpu\t6", "unbound\thit_cpu\t5.9", "hit_qps\t260000", "hit_qps\t250000",
	).Replace(raw)
	want = []string{met, notMet, notMet, met, notMet, met, met, notMet, notMet, notMet, notMet, notMet, notMet, notMet, notMet, met}
	if got := states(flipped); strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("flipped %v\nwant    %v", got, want)
	}
	for i, s := range states("peer\tsotto\tdev\tgo") {
		if s != notMeasured {
			t.Errorf("verdict %d without results: %s", i, s)
		}
	}
}

func TestMarkdown(t *testing.T) {
	md := read(t, raw).Markdown()
	for _, want := range []string{
		"| misses/s, 100 outstanding | 1.00 | 0.50 | 0.40 |",
		"| misses/s, 100 outstanding | 40,000 (20,000–40,000) | 15,000 (10,000–20,000) | 16,000 |",
		"| bytes per cached answer | 500 | 500 | – |",
		"one run on 2 cores with Linux 6.1: 2 rounds, 5 s per\nmeasurement",
		"while 1,000,000\n  entries are cached",
		"Not measured: **blocky**: does not build.",
		"**coredns** failed: exited in round 2.",
		"| coredns | v1.15.0 |",
		"| a datagram to oneself | 4.1 (4.0–4.2) | – | – |",
		"| a datagram to oneself, to port 53 | 4.2 | – | – |",
		"| unbound, DNAT | 19.0 | – | – |",
		"## DNSSEC validation\n",
		"| sotto, validating | 7,000 | 12.0 |",
		"| routedns | 5,000 |\n",
		"| beside a flood, answered in the kernel | 1,100 |\n",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in\n%s", want, md)
		}
	}
}

func TestText(t *testing.T) {
	text := read(t, raw).Text()
	for _, want := range []string{"\nunbound        0.50     0.91", "not met       misses/s at least 1.3 × unbound"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		thousands(185_432): "185,000", thousands(38_349): "38,300", thousands(999.6): "1,000", thousands(12): "12", thousands(1_580_900): "1,581,000",
		whole(1049.6): "1,050", whole(999.4): "999", tenths(4.25): "4.2", ratio(0.456): "0.46",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// element is one element of the plot.
type element struct {
	XMLName xml.Name
	X       float64 `xml:"x,attr"`
	Y       float64 `xml:"y,attr"`
	Width   string  `xml:"width,attr"`
	Size    float64 `xml:"font-size,attr"`
	Anchor  string  `xml:"text-anchor,attr"`
	Text    string  `xml:",chardata"`
}

// span returns the horizontal extent of an element, assuming glyphs wider than in common
// fonts.
func (e element) span() (left, right float64) {
	if e.XMLName.Local == "rect" {
		w, _ := strconv.ParseFloat(e.Width, 64)
		return e.X, e.X + w
	}
	w := 0.62 * e.Size * float64(len([]rune(e.Text)))
	if e.Anchor == "end" {
		return e.X - w, e.X
	}
	return e.X, e.X + w
}

func elements(t *testing.T, svg string) (all []element, width float64) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return all, width
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		start, ok := tok.(xml.StartElement)
		switch {
		case !ok:
		case start.Name.Local == "svg":
			for _, a := range start.Attr {
				if a.Name.Local == "width" {
					width, _ = strconv.ParseFloat(a.Value, 64)
				}
			}
		default:
			var e element
			if err := d.DecodeElement(&e, &start); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
	}
}

// TestSVG checks that the plot is well-formed, that every bar has a name and a figure, and
// that texts do not overlap, even with all panels and long figures.
func TestSVG(t *testing.T) {
	var full strings.Builder
	full.WriteString("meta\tcores\t128\n")
	names := []string{"sotto", "unbound", "a-long-name"}
	for i, name := range names {
		full.WriteString("peer\t" + name + "\tv1\tgo\n")
		for _, m := range metrics {
			full.WriteString("run\t" + strconv.Itoa(i+1) + "\t" + name + "\t" + m.Key + "\t" + strconv.Itoa(999_999-i) + "\n")
		}
	}
	for _, svg := range []string{read(t, raw).SVG(), read(t, full.String()).SVG(), read(t, raw).PathsSVG()} {
		all, width := elements(t, svg)
		for i, a := range all {
			left, right := a.span()
			if left < 0 || right > width {
				t.Errorf("%+v is outside of 0 to %v", a, width)
			}
			for _, b := range all[:i] {
				l, r := b.span()
				if a.XMLName.Local == "text" && b.XMLName.Local == "text" && a.Y == b.Y && left < r && l < right {
					t.Errorf("%q and %q overlap", a.Text, b.Text)
				}
			}
		}
	}
	svg := read(t, full.String()).SVG()
	if got := strings.Count(svg, ">a-long-name<"); got != len(plotted) {
		t.Errorf("a-long-name is in %d panels, want %d", got, len(plotted))
	}
	if own := strings.Count(svg, ownColour); own != len(plotted) {
		t.Errorf("Sotto has %d bars, want %d", own, len(plotted))
	}
}

// TestBars checks that the best value is on top, whether that is the highest or the lowest.
func TestBars(t *testing.T) {
	res := read(t, raw)
	for key, want := range map[string]string{"miss_qps": "sotto coredns unbound", "p99_us": "unbound sotto"} {
		var got []string
		for _, b := range res.bars(metricOf(key)) {
			got = append(got, b.name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", key, got, want)
		}
	}
}
