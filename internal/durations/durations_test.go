// SPDX-License-Identifier: Apache-2.0

package durations

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestBuckets compares the bucket of many durations with the definition of native histograms:
// bucket i has the values above 2^((i-1)/8) s and up to 2^(i/8) s.
func TestBuckets(t *testing.T) {
	check := func(d time.Duration) {
		n := Bucket(d)
		s := d.Seconds()
		if n > 0 && s <= Limit(n-1) || n < Buckets-1 && s > Limit(n) {
			t.Errorf("%v is in bucket %d, from %v s to %v s", d, n, Limit(n-1), Limit(n))
		}
	}
	for n := range Buckets - 1 {
		near := time.Duration(Limit(n) * 1e9)
		for d := near - 2; d <= near+2; d++ {
			check(d)
		}
	}
	for range 100_000 {
		check(time.Duration(math.Exp(rand.Float64() * 26)))
	}
	for d, want := range map[time.Duration]int{-time.Second: 0, 0: 0, 1: 0, 900: 0, time.Hour: Buckets - 1, math.MaxInt64: Buckets - 1} {
		if n := Bucket(d); n != want {
			t.Errorf("%v is in bucket %d, want %d", d, n, want)
		}
	}
	if Index(0) != -160 || Limit(0) != 1.0/(1<<20) || Limit(160) != 1 {
		t.Errorf("limits: %d %v %v", Index(0), Limit(0), Limit(160))
	}
}

func TestQuantile(t *testing.T) {
	var h Histogram
	if got := h.Counts().Quantile(0.5); got != 0 {
		t.Errorf("without values: %v", got)
	}
	for ms := range 100 {
		h.Add(time.Duration(ms+1) * time.Millisecond)
	}
	c := h.Counts()
	for q, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 1: 100 * time.Millisecond} {
		if got := c.Quantile(q); got < want || got > want*110/100 {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	h.Add(time.Hour)
	if d := h.Counts().Sub(c); d.Total() != 1 || d.Sum != time.Hour || c.Total() != 100 || c.Sum != 5050*time.Millisecond {
		t.Errorf("difference %+v", d)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h Histogram
	d := 17 * time.Microsecond
	for b.Loop() {
		h.Add(d)
		d += 1001
	}
}
