// SPDX-License-Identifier: Apache-2.0

package health

import (
	"math/bits"
	"time"
)

const (
	histUnit    = 8 * time.Microsecond // the width of the first buckets
	histSub     = 8                    // buckets for each doubling: a bucket is at most an eighth of its start wide
	histSubBits = 3
	histOctaves = 19 // 8 µs << (19+2) is 16 s, longer than any query takes

	// histHalf is the number of reply times in a half: between histHalf and twice as many
	// are kept. That is enough for p95 to depend on some dozens of them, and few enough to
	// follow a change of the network soon.
	histHalf = 512
)

// histogram counts recent reply times in buckets whose width grows with the time. It has
// two halves, of which the older one is dropped as a whole, so that all replies have the
// same weight. (If the latest ones had more, it would be the slow ones at the end of a
// burst.) The zero value is empty.
type histogram struct {
	counts [2][histOctaves * histSub]uint16
	totals [2]int
	now    int // the index of the newer half
}

// bucketOf returns the bucket of a time.
func bucketOf(d time.Duration) int {
	v := uint64(max(0, d) / histUnit)
	if v < histSub {
		return int(v)
	}
	shift := bits.Len64(v) - histSubBits - 1
	return min((shift+1)*histSub+int(v>>shift)-histSub, histOctaves*histSub-1)
}

// bucketStart returns the shortest time in a bucket.
func bucketStart(i int) time.Duration {
	if i < histSub {
		return time.Duration(i) * histUnit
	}
	shift := i/histSub - 1
	return time.Duration(histSub+i%histSub) << shift * histUnit
}

// add adds a reply time.
func (h *histogram) add(d time.Duration) {
	if h.totals[h.now] >= histHalf {
		h.now = 1 - h.now
		h.counts[h.now], h.totals[h.now] = [histOctaves * histSub]uint16{}, 0
	}
	h.counts[h.now][bucketOf(d)]++
	h.totals[h.now]++
}

// total returns the number of reply times.
func (h *histogram) total() int { return h.totals[0] + h.totals[1] }

// quantile returns the time that a share q of the replies did not exceed; 0 if there were
// none.
func (h *histogram) quantile(q float64) time.Duration {
	left := q * float64(h.total())
	for i := range h.counts[0] {
		n := float64(h.counts[0][i]) + float64(h.counts[1][i])
		if n > 0 && left <= n {
			start, end := bucketStart(i), bucketStart(i+1)
			return start + time.Duration(float64(end-start)*max(0, left/n))
		}
		left -= n
	}
	return 0
}
