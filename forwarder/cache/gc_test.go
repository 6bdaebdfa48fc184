// SPDX-License-Identifier: Apache-2.0

package cache

import "testing"

func TestGCPercent(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, 800},
		{mb, 800},
		{8 * mb, 400},
		{32 * mb, 100},
		{64 * mb, 100},
		{85 * mb, 100},
		{128 * mb, 75},
		{256 * mb, 50},
		{1 << 30, 31},
		{1 << 40, 25},
	} {
		if got := GCPercent(tt.live); got != tt.want {
			t.Errorf("%d MB live: %d percent, want %d", tt.live/mb, got, tt.want)
		}
	}
	// With a larger heap, the size at the next collection is never smaller.
	last := uint64(0)
	for live := uint64(5 * mb); live < 1<<34; live += live / 8 {
		goal := live + live*uint64(GCPercent(live))/100
		if goal < last*97/100 { // percentages are integers
			t.Errorf("%d MB live: collected at %d MB, with a smaller heap at %d", live/mb, goal/mb, last/mb)
		}
		last = goal
	}
}
