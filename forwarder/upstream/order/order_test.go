// SPDX-License-Identifier: Apache-2.0

package order

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFailoverOrder(t *testing.T) {
	for _, tc := range []struct {
		servers []Candidate
		want    []int
	}{
		{[]Candidate{{}, {}, {}}, []int{0, 1, 2}},
		{[]Candidate{{BackoffUntil: 20}, {}, {}}, []int{1, 2, 0}},
		{[]Candidate{{BackoffUntil: 20}, {}, {BackoffUntil: 15}}, []int{1, 2, 0}},
		{[]Candidate{{BackoffUntil: 1}, {}}, []int{1, 0}}, // its backoff has passed, but it is not known to be healthy
		{[]Candidate{{BackoffUntil: 30}, {BackoffUntil: 20}, {BackoffUntil: 25}}, []int{1, 2, 0}},
		{[]Candidate{{BackoffUntil: 20}, {BackoffUntil: 20}, {BackoffUntil: 11}}, []int{2, 0, 1}},
		{[]Candidate{{Suspect: true}, {}}, []int{1, 0}},
		{[]Candidate{{BackoffUntil: 1}, {Suspect: true}, {}}, []int{2, 1, 0}},
		{[]Candidate{{Suspect: true}, {Suspect: true}}, []int{0, 1}},
		{[]Candidate{{Usual: 9}, {Usual: 1}}, []int{0, 1}},
		{nil, nil},
	} {
		if got := failover(nil, tc.servers, 0); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: order %v, want %v", tc.servers, got, tc.want)
		}
	}
}

func TestFastestOrder(t *testing.T) {
	for _, tc := range []struct {
		servers []Candidate
		want    []int
	}{
		{[]Candidate{{}, {}}, []int{0, 1}},
		{[]Candidate{{Usual: 30}, {Usual: 10}, {Usual: 20}}, []int{1, 2, 0}},
		{[]Candidate{{}, {Usual: 10}}, []int{1, 0}}, // the first is unknown
		{[]Candidate{{Usual: 10, Suspect: true}, {Usual: 20}, {Usual: 1, BackoffUntil: 5}}, []int{1, 0, 2}},
		{[]Candidate{{Usual: 10}, {Usual: 10}}, []int{0, 1}},
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
	servers := []Candidate{{}, {Suspect: true}, {}, {BackoffUntil: 7}, {}}
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
		got := p.Func()([]int{7}, []Candidate{{BackoffUntil: 5}, {BackoffUntil: 3}}, 1)
		if !slices.Equal(got, []int{7, 1, 0}) {
			t.Errorf("%s: got %v", p, got)
		}
	}
}

func TestMeasureTarget(t *testing.T) {
	for _, tc := range []struct {
		what    string
		servers []Candidate
		chance  uint64
		want    int
	}{
		{"alone", []Candidate{{Usual: 1}}, 0, -1},
		{"no servers", nil, 0, -1},
		{"one is unknown", []Candidate{{Usual: 1}, {Usual: 2}, {}}, 1, 2},
		{"two are unknown", []Candidate{{Usual: 1}, {}, {}}, 1, 1},
		{"the other unknown one", []Candidate{{Usual: 1}, {}, {}}, measureEvery, 2},
		{"unknown before known ones", []Candidate{{Usual: 1}, {Usual: 2}, {}}, measureEvery, 2},
		{"all are unknown", []Candidate{{}, {}, {}}, measureEvery, 2},
		{"an unknown one that is backed off", []Candidate{{Usual: 1}, {BackoffUntil: 9}}, 0, -1},
		{"not this time", []Candidate{{Usual: 1}, {Usual: 2}}, 1, -1},
		{"this time", []Candidate{{Usual: 1}, {Usual: 2}}, measureEvery, 1},
		{"in turn", []Candidate{{Usual: 1}, {Usual: 2}, {Usual: 3}}, measureEvery, 2},
	} {
		order := fastest(nil, tc.servers, 0)
		if got := MeasureTarget(order, tc.servers, tc.chance); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.what, got, tc.want)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	seen := make(map[int]int)
	const n = 64_000
	for range n {
		seen[MeasureTarget([]int{2, 0, 1}, []Candidate{{Usual: 1}, {Usual: 1}, {Usual: 1}}, rng.Uint64())]++
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

func BenchmarkPlan(b *testing.B) {
	for _, p := range []Policy{Failover, Random, Hedged} {
		b.Run(string(p), func(b *testing.B) {
			servers := []Candidate{{Usual: 3 * time.Millisecond}, {Usual: 2 * time.Millisecond}, {Usual: time.Millisecond}}
			var room [8]int
			pick := p.Func()
			b.ReportAllocs()
			for b.Loop() {
				pick(room[:0], servers, 12345)
			}
		})
	}
}
