// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/upstream/servertest"
)

func TestFailoverOrder(t *testing.T) {
	for _, tc := range []struct {
		servers []candidate
		want    []int
	}{
		{[]candidate{{}, {}, {}}, []int{0, 1, 2}},
		{[]candidate{{backoffUntil: 20}, {}, {}}, []int{1, 2, 0}},
		{[]candidate{{backoffUntil: 20}, {}, {backoffUntil: 15}}, []int{1, 2, 0}},
		{[]candidate{{backoffUntil: 1}, {}}, []int{1, 0}}, // its backoff has passed, but it is not known to be healthy
		{[]candidate{{backoffUntil: 30}, {backoffUntil: 20}, {backoffUntil: 25}}, []int{1, 2, 0}},
		{[]candidate{{backoffUntil: 20}, {backoffUntil: 20}, {backoffUntil: 11}}, []int{2, 0, 1}},
		{[]candidate{{suspect: true}, {}}, []int{1, 0}},
		{[]candidate{{backoffUntil: 1}, {suspect: true}, {}}, []int{2, 1, 0}},
		{[]candidate{{suspect: true}, {suspect: true}}, []int{0, 1}},
		{[]candidate{{usual: 9}, {usual: 1}}, []int{0, 1}},
		{nil, nil},
	} {
		if got := failover(nil, tc.servers, 0); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: order %v, want %v", tc.servers, got, tc.want)
		}
	}
}

func TestFastestOrder(t *testing.T) {
	for _, tc := range []struct {
		servers []candidate
		want    []int
	}{
		{[]candidate{{}, {}}, []int{0, 1}},
		{[]candidate{{usual: 30}, {usual: 10}, {usual: 20}}, []int{1, 2, 0}},
		{[]candidate{{}, {usual: 10}}, []int{1, 0}}, // the first is unknown
		{[]candidate{{usual: 10, suspect: true}, {usual: 20}, {usual: 1, backoffUntil: 5}}, []int{1, 0, 2}},
		{[]candidate{{usual: 10}, {usual: 10}}, []int{0, 1}},
	} {
		if got := fastest(nil, tc.servers, 0); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: order %v, want %v", tc.servers, got, tc.want)
		}
	}
}

// TestRandomOrder: each of the healthy servers is first equally often, and second; the
// others are last.
func TestRandomOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	servers := []candidate{{}, {suspect: true}, {}, {backoffUntil: 7}, {}}
	const n = 30_000
	first, second := make(map[int]int), make(map[int]int)
	for range n {
		got := random(nil, servers, rng.Uint64())
		if got[3] != 1 || got[4] != 3 {
			t.Fatalf("order %v, want the unhealthy ones at the end", got)
		}
		first[got[0]]++
		second[got[1]]++
	}
	for _, positions := range []map[int]int{first, second} {
		for _, i := range []int{0, 2, 4} {
			if share := float64(positions[i]) / n; share < 0.32 || share > 0.347 {
				t.Errorf("server %d has a share of %.3f, want a third", i, share)
			}
		}
	}
}

func TestPickersAppend(t *testing.T) {
	for _, p := range []Policy{Failover, Fastest, Random, Hedged} {
		got := p.picker()([]int{7}, []candidate{{backoffUntil: 5}, {backoffUntil: 3}}, 1)
		if !slices.Equal(got, []int{7, 1, 0}) {
			t.Errorf("%s: got %v", p, got)
		}
	}
}

func TestMeasureTarget(t *testing.T) {
	for _, tc := range []struct {
		what    string
		servers []candidate
		chance  uint64
		want    int
	}{
		{"alone", []candidate{{usual: 1}}, 0, -1},
		{"no servers", nil, 0, -1},
		{"one is unknown", []candidate{{usual: 1}, {usual: 2}, {}}, 1, 2},
		{"two are unknown", []candidate{{usual: 1}, {}, {}}, 1, 1},
		{"the other unknown one", []candidate{{usual: 1}, {}, {}}, measureEvery, 2},
		{"unknown before known ones", []candidate{{usual: 1}, {usual: 2}, {}}, measureEvery, 2},
		{"all are unknown", []candidate{{}, {}, {}}, measureEvery, 2},
		{"an unknown one that is backed off", []candidate{{usual: 1}, {backoffUntil: 9}}, 0, -1},
		{"not this time", []candidate{{usual: 1}, {usual: 2}}, 1, -1},
		{"this time", []candidate{{usual: 1}, {usual: 2}}, measureEvery, 1},
		{"in turn", []candidate{{usual: 1}, {usual: 2}, {usual: 3}}, measureEvery, 2},
	} {
		order := fastest(nil, tc.servers, 0)
		if got := measureTarget(order, tc.servers, tc.chance); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.what, got, tc.want)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	seen := make(map[int]int)
	const n = 64_000
	for range n {
		seen[measureTarget([]int{2, 0, 1}, []candidate{{usual: 1}, {usual: 1}, {usual: 1}}, rng.Uint64())]++
	}
	for _, i := range []int{0, 1} {
		if got := seen[i]; got < 400 || got > 600 {
			t.Errorf("server %d was measured %d times in %d, want about %d", i, got, n, n/measureEvery/2)
		}
	}
	if seen[2] != 0 {
		t.Error("the first one was measured, although it gets the query")
	}
}

func TestParsePolicy(t *testing.T) {
	for _, p := range []Policy{Failover, Fastest, Random, Hedged} {
		if got, err := ParsePolicy(string(p)); got != p || err != nil {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "Fastest", "round-robin"} {
		if _, err := ParsePolicy(s); err == nil || !strings.Contains(err.Error(), "want one of failover, fastest, random, hedged") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestBudget: hedges never exceed the share, and only a few are saved up.
func TestBudget(t *testing.T) {
	b := newBudget(0.08)
	spent := 0
	const n = 10_000
	for i := range n {
		b.earn()
		if b.spend() {
			spent++
		}
		if most := 0.08 * float64(i+1); float64(spent) > most {
			t.Fatalf("%d hedges after %d queries, want at most %.1f", spent, i+1, most)
		}
	}
	if spent < n*8/100-1 {
		t.Errorf("%d hedges in %d queries, want the whole share", spent, n)
	}
	for range n {
		b.earn()
	}
	for spent = 0; b.spend(); spent++ {
	}
	if spent != maxTokens {
		t.Errorf("%d hedges were saved up, want %d", spent, maxTokens)
	}
}

// TestNewChecksPolicy checks the settings of server selection.
func TestNewChecksPolicy(t *testing.T) {
	s := servertest.Serve(t, servertest.Zone(t), nil)
	for what, change := range map[string]func(*Config){
		"policy":         func(c *Config) { c.Policy = "best" },
		"negative share": func(c *Config) { c.HedgeShare = -0.1 },
		"share over 1":   func(c *Config) { c.HedgeShare = 1.5 },
	} {
		cfg := hasty(s)
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if g := group(t, s); g.cfg.Policy != Failover || g.cfg.HedgeShare != DefaultHedgeShare {
		t.Errorf("defaults %q and %v", g.cfg.Policy, g.cfg.HedgeShare)
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, p := range []Policy{Failover, Random, Hedged} {
		b.Run(string(p), func(b *testing.B) {
			servers := []candidate{{usual: 3 * time.Millisecond}, {usual: 2 * time.Millisecond}, {usual: time.Millisecond}}
			var room [8]int
			pick := p.picker()
			b.ReportAllocs()
			for b.Loop() {
				pick(room[:0], servers, 12345)
			}
		})
	}
}
