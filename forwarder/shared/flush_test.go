// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"testing"
	"time"
)

// TestFlushAheadOfTime: after a flush while the clock was ahead, answers are used again that are
// stored after it was set back, and no older ones.
func TestFlushAheadOfTime(t *testing.T) {
	var c Cache
	if c.isFlushed(t0, t0) {
		t.Error("flushed without a flush")
	}
	c.Flush(t0)
	for _, tc := range []struct {
		what        string
		stored, now time.Duration // since the flush
		want        bool
	}{
		{"before the flush", -time.Second, time.Second, true},
		{"after the flush", time.Second, time.Second, false},
		{"the clock was set back a little", -time.Second, -clockSlack, true},
		{"after that", time.Second, time.Second, false},
		{"the clock was set back by hours", -8*time.Hour - time.Minute, -8 * time.Hour, true},
		{"stored since", -8*time.Hour + time.Second, -8*time.Hour + time.Minute, false},
		{"stored before", -8*time.Hour - time.Second, -8*time.Hour + time.Minute, true},
	} {
		if got := c.isFlushed(t0.Add(tc.stored), t0.Add(tc.now)); got != tc.want {
			t.Errorf("%s: flushed: %t", tc.what, got)
		}
	}
}
