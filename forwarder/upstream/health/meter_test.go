// SPDX-License-Identifier: Apache-2.0

package health

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	last := 0
	for d := time.Duration(0); d < 15*time.Second; d = d*21/20 + 1000 {
		i := bucketOf(d)
		start, end := bucketStart(i), bucketStart(i+1)
		if d < start || d >= end {
			t.Fatalf("%v is in bucket %d, from %v to %v", d, i, start, end)
		}
		if i < last {
			t.Fatalf("%v is in bucket %d, after %d", d, i, last)
		}
		if i >= histSub && end-start > start/histSub {
			t.Fatalf("bucket %d is %v wide at %v", i, end-start, start)
		}
		last = i
	}
	for _, d := range []time.Duration{-time.Second, time.Hour} {
		if i := bucketOf(d); i < 0 || i >= histOctaves*histSub {
			t.Errorf("%v is in bucket %d", d, i)
		}
	}
}

// TestQuantiles compares with exact quantiles of random data.
func TestQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for what, next := range map[string]func() time.Duration{
		"uniform":    func() time.Duration { return time.Duration(rng.Int64N(int64(100 * time.Millisecond))) },
		"log-normal": func() time.Duration { return time.Duration(20e6 * math.Exp(rng.NormFloat64())) },
		"two modes": func() time.Duration {
			d := 20*time.Millisecond + time.Duration(rng.Int64N(int64(2*time.Millisecond)))
			if rng.IntN(10) == 0 {
				d += 200 * time.Millisecond
			}
			return d
		},
		"constant": func() time.Duration { return 3 * time.Millisecond },
	} {
		for halves := range 50 {
			var h histogram
			var exact []time.Duration
			for range histHalf * (1 + halves%2) {
				d := next()
				h.add(d)
				exact = append(exact, d)
			}
			slices.Sort(exact)
			for _, q := range []float64{0.5, 0.9, 0.95} {
				// Any value between two neighbours is correct.
				at := int(q * float64(len(exact)))
				low, high := float64(exact[at-2])*7/8, float64(exact[at+1])*9/8
				if got := float64(h.quantile(q)); got < low-float64(histUnit) || got > high+float64(histUnit) {
					t.Errorf("%s: p%v is %v, want between %v and %v", what, 100*q,
						time.Duration(got), time.Duration(low), time.Duration(high))
				}
			}
		}
	}
	var none histogram
	if got := none.quantile(0.95); got != 0 {
		t.Errorf("p95 of an empty histogram is %v", got)
	}
}

// TestHistogramForgets: old values have no weight.
func TestHistogramForgets(t *testing.T) {
	var h histogram
	for range 100 * histHalf {
		h.add(20 * time.Millisecond)
	}
	for range 2 * histHalf {
		h.add(100 * time.Millisecond)
	}
	if got := h.quantile(0.5); got < 80*time.Millisecond {
		t.Errorf("the median is still %v", got)
	}
	if n := h.total(); n < histHalf || n > 2*histHalf {
		t.Errorf("%d replies are kept, want between %d and twice as many", n, histHalf)
	}
}

func TestUsualTime(t *testing.T) {
	var ts times
	ts.add(20*time.Millisecond, false, false)
	if ts.usual != 20*time.Millisecond {
		t.Errorf("after one reply usual is %v", ts.usual)
	}
	ts.add(3*time.Second, false, false)
	if ts.usual > 30*time.Millisecond {
		t.Errorf("after one slow name usual is %v", ts.usual)
	}
	for range 30 {
		ts.add(3*time.Second, false, false)
	}
	if ts.usual < time.Second {
		t.Errorf("for a server that became slow usual is %v", ts.usual)
	}
	for range 80 {
		ts.add(20*time.Millisecond, false, false)
	}
	if ts.usual > 21*time.Millisecond {
		t.Errorf("for one that became fast again usual is %v", ts.usual)
	}
	for range 5 {
		ts.add(time.Millisecond, false, true)
	}
	if ts.usual > 2*time.Millisecond {
		t.Errorf("for one that is rarely asked usual is %v after five replies", ts.usual)
	}
}

// TestLateWithTail: if one reply in twenty is slow, a second server is asked long before the
// slow replies arrive, whichever side of p95 they are on.
func TestLateWithTail(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var ts times
	early := 0
	for i := range 20_000 {
		d := 20*time.Millisecond + time.Duration(rng.Int64N(int64(time.Millisecond)))
		if rng.IntN(20) == 0 {
			d += 200 * time.Millisecond
		}
		ts.add(d, false, false)
		switch {
		case i+1 < MinReplies:
			if ts.late != 2*ts.usual {
				t.Fatalf("after %d replies late is %v, want twice %v", i+1, ts.late, ts.usual)
			}
		case ts.late <= 50*time.Millisecond:
			early++
		}
	}
	if early < 19_500 {
		t.Errorf("late was at most 50 ms for only %d of 20,000 queries", early)
	}
	if ts.late < 20*time.Millisecond {
		t.Errorf("late is %v, which most replies exceed", ts.late)
	}
}

// TestSilenceLimit: a slow server is soon no longer mistaken for a silent one, until it is
// fast again.
func TestSilenceLimit(t *testing.T) {
	m := &Meter{}
	if m.SilenceLimit() != int64(MinSilence) {
		t.Errorf("it starts with %v", time.Duration(m.SilenceLimit()))
	}
	const slow = 300 * time.Millisecond
	now, alarms := int64(time.Hour), 0
	for range 100 {
		if sent := now; m.SilenceLimit() < int64(slow) {
			alarms++
			if !m.Suspect(sent+m.SilenceLimit()) || !m.IsSuspect() {
				t.Error("it is not suspect")
			}
		}
		now += int64(slow)
		m.lastRead.Store(now)
		if m.IsSuspect() {
			t.Error("it is suspect after a byte")
		}
		m.Replied(now-int64(slow), now)
	}
	if alarms != 1 {
		t.Errorf("%d alarms, want only the first", alarms)
	}
	for range 100 {
		now += int64(time.Millisecond)
		m.Replied(now-int64(time.Millisecond), now)
	}
	if w := time.Duration(m.SilenceLimit()); w > MinSilence*21/20 {
		t.Errorf("with fast replies it is still %v", w)
	}
	// A path that was dead for a long time does not extend the limit.
	m.Suspect(now + 1)
	m.Replied(now, now+int64(5*time.Second))
	if w := time.Duration(m.SilenceLimit()); w > MinSilence*3/2 {
		t.Errorf("after a long silence it is %v", w)
	}
	m.Replied(now, now+int64(9*time.Second))
	before := time.Duration(m.usual.Load())
	m.Replied(now+int64(9*time.Second), now+int64(11*time.Second)) // two seconds after the previous one
	if step := time.Duration(m.usual.Load()) - before; step < before {
		t.Errorf("a reply after a long time changes %v by %v, want half of the difference", before, step)
	}
	m.Reset()
	if m.IsSuspect() || m.usual.Load() != 0 || m.SilenceLimit() != int64(MinSilence) {
		t.Error("something is left after reset")
	}
}

func BenchmarkReplied(b *testing.B) {
	m := &Meter{}
	rng := rand.New(rand.NewPCG(9, 10))
	b.ReportAllocs()
	for b.Loop() {
		m.Replied(0, rng.Int64N(int64(300*time.Millisecond)))
	}
}
