// SPDX-License-Identifier: Apache-2.0

package upstream

import "time"

const (
	// backoffBase is how long a server rests after its first failure: long
	// enough for others to go elsewhere, short enough for a restart.
	backoffBase = 500 * time.Millisecond

	// backoffMax bounds the time until a server that is well again is noticed.
	backoffMax = 30 * time.Second
)

// health is what is known of a server's failures. The zero value is healthy.
type health struct {
	failures int       // in a row
	first    time.Time // of them
	last     time.Time // the latest failure
	until    time.Time // it rests until then
}

// failed enters the failure of an attempt that began at that time, and reports
// whether it is news. Attempts that ran beside one that failed already tell of
// the same trouble, and do not make the rest longer. random is in [0,1): the
// jitter, so that many forwarders do not come back as one.
func (h *health) failed(began, now time.Time, random float64) bool {
	if h.failures > 0 && !began.After(h.last) {
		return false
	}
	if h.failures == 0 {
		h.first = now
	}
	h.failures++
	h.last = now
	d := backoffMax
	if h.failures < 8 { // beyond that the shift exceeds the bound
		d = min(d, backoffBase<<(h.failures-1))
	}
	d = time.Duration(float64(d) * (0.75 + random/2))
	h.until = now.Add(d)
	return true
}

// claim lets one attempt through to a server whose rest is over, and keeps the
// others away for as long as that may take. Not true: it rests, or somebody
// tries already, or it is healthy and needs no trial.
func (h *health) claim(now time.Time, trial time.Duration) bool {
	if h.failures == 0 || now.Before(h.until) {
		return false
	}
	h.until = now.Add(trial)
	return true
}

// succeeded forgets the failures, and reports whether there were any.
func (h *health) succeeded() bool {
	was := h.failures > 0
	*h = health{}
	return was
}
