// SPDX-License-Identifier: Apache-2.0

// Package durations counts durations in the buckets of Prometheus' native histograms with schema
// 3: eight to each doubling. Adding a duration costs some nanoseconds and allocates nothing.
package durations

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// Schema is the resolution, as Prometheus numbers it: 2^Schema buckets to each doubling.
	Schema = 3

	// PerDoubling is the number of buckets to each doubling.
	PerDoubling = 1 << Schema

	// minExponent and maxExponent are those of the limits of the first and the last bucket
	// but one, 2^-20 s (about a microsecond) and 32 s.
	minExponent = -20
	maxExponent = 5

	// Buckets is the number of buckets. The first one has all durations up to Limit(0), the
	// last one all that are longer than the limit of the one before it.
	Buckets = (maxExponent-minExponent)*PerDoubling + 2
)

// mantissaBits is the number of bits of the fraction of a float64 (IEEE 754); bias is that of its
// exponent.
const (
	mantissaBits = 52
	bias         = 1023
)

// bounds are the limits within a doubling from one to two, as fractions of float64.
var bounds = func() (out [PerDoubling]uint64) {
	for i := range out {
		out[i] = math.Float64bits(math.Exp2(float64(i)/PerDoubling)) & (1<<mantissaBits - 1)
	}
	return out
}()

// Bucket returns the bucket of a duration.
func Bucket(d time.Duration) int {
	bits := math.Float64bits(float64(max(d, 0)) / float64(time.Second))
	fraction := bits & (1<<mantissaBits - 1)
	at := (int(bits>>mantissaBits) - bias - minExponent) * PerDoubling
	for _, limit := range bounds {
		at += int((limit - fraction) >> 63) // 1 if fraction is above limit
	}
	return min(max(at, 0), Buckets-1)
}

// Index returns the number of bucket n in a native histogram of Prometheus, in seconds.
func Index(n int) int { return n + minExponent*PerDoubling }

// Limit returns the longest duration of bucket n, in seconds. That of the last bucket is the
// limit that the bucket would have if there were more; it has longer ones as well.
func Limit(n int) float64 { return math.Exp2(float64(Index(n)) / PerDoubling) }

// Histogram counts durations. The zero value is empty. Its methods are safe for concurrent use.
type Histogram struct {
	buckets [Buckets]atomic.Uint64
	nanos   atomic.Uint64
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[Bucket(d)].Add(1)
	h.nanos.Add(uint64(max(d, 0)))
}

// AddTo adds the current counts to c. They are read one after the other.
func (h *Histogram) AddTo(c *Counts) {
	for n := range h.buckets {
		c.Buckets[n] += h.buckets[n].Load()
	}
	c.Sum += time.Duration(h.nanos.Load())
}

// Counts returns the current counts.
func (h *Histogram) Counts() *Counts {
	c := new(Counts)
	h.AddTo(c)
	return c
}

// Counts are the durations of a histogram at some time.
type Counts struct {
	Buckets [Buckets]uint64
	Sum     time.Duration
}

// Total returns the number of durations.
func (c *Counts) Total() (n uint64) {
	for _, v := range c.Buckets {
		n += v
	}
	return n
}

// Sub returns what was counted since the earlier counts.
func (c *Counts) Sub(earlier *Counts) *Counts {
	out := &Counts{Sum: c.Sum - earlier.Sum}
	for n := range out.Buckets {
		out.Buckets[n] = c.Buckets[n] - earlier.Buckets[n]
	}
	return out
}

// Quantile returns an upper bound of the duration that the share q of all did not exceed, at
// most a tenth above it; 0 if there are none.
func (c *Counts) Quantile(q float64) time.Duration {
	want := uint64(math.Ceil(q * float64(c.Total())))
	sum := uint64(0)
	for n, v := range c.Buckets {
		if sum += v; sum > 0 && sum >= want {
			return time.Duration(Limit(n) * float64(time.Second))
		}
	}
	return 0
}
