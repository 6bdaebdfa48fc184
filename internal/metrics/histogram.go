// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"sotto/internal/durations"
)

// The limits of the classic buckets are doublings from 7.6 µs (2^-17 s) to 8 s, so that they are
// limits of native buckets.
const (
	firstClassic = -17
	lastClassic  = 3
)

// bothHistogram is a native histogram with classic buckets.
type bothHistogram struct {
	prometheus.Metric
	counts *durations.Counts
}

// newHistogram returns the metric for counts, which started at that time.
func newHistogram(m *Metric, c *durations.Counts, started time.Time, labels ...string) prometheus.Metric {
	native := map[int]int64{}
	for n, v := range c.Buckets[1:] {
		if v > 0 {
			native[durations.Index(n+1)] = int64(v)
		}
	}
	metric, err := prometheus.NewConstNativeHistogram(m.desc, c.Total(), c.Sum.Seconds(), native, nil,
		c.Buckets[0], durations.Schema, durations.Limit(0), started, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(m.desc, err)
	}
	return bothHistogram{metric, c}
}

// Write implements [prometheus.Metric].
func (h bothHistogram) Write(out *dto.Metric) error {
	if err := h.Metric.Write(out); err != nil {
		return err
	}
	sum, next := uint64(0), 0
	for exponent := firstClassic; exponent <= lastClassic; exponent++ {
		limit := math.Exp2(float64(exponent))
		for ; durations.Index(next) <= exponent*durations.PerDoubling; next++ {
			sum += h.counts.Buckets[next]
		}
		count := sum
		out.Histogram.Bucket = append(out.Histogram.Bucket, &dto.Bucket{UpperBound: &limit, CumulativeCount: &count})
	}
	return nil
}
