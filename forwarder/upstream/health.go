// SPDX-License-Identifier: Apache-2.0

package upstream

import "time"

const (
	// backoffBase is how long a server is backed off after its first failure: long enough
	// for other queries to go elsewhere, short enough for a restart.
	backoffBase = 500 * time.Millisecond

	// backoffMax limits the time until it is noticed that a server has recovered.
	backoffMax = 30 * time.Second
)

// health records the failures of a server. The zero value is healthy.
type health struct {
	failures int       // in a row
	first    time.Time // the first of them
	last     time.Time // the latest of them
	until    time.Time // the server is backed off until then
}

// failed records the failure of an attempt that started at that time, and reports whether
// it counts. Attempts that were in progress at an earlier failure have the same cause and
// do not extend the time. random in [0,1) adds jitter, so that many forwarders do not
// return at the same time.
func (h *health) failed(started, now time.Time, random float64) bool {
	if h.failures > 0 && !started.After(h.last) {
		return false
	}
	if h.failures == 0 {
		h.first = now
	}
	h.failures++
	h.last = now
	d := backoffMax
	if h.failures < 8 { // beyond that the shift exceeds the limit
		d = min(d, backoffBase<<(h.failures-1))
	}
	d = time.Duration(float64(d) * (0.75 + random/2))
	h.until = now.Add(d)
	return true
}

// claimTrial admits one attempt to a server whose backoff has passed, and backs the server
// off for as long as that attempt may take. It reports false if the server is still backed
// off, is being tried already, or is healthy.
func (h *health) claimTrial(now time.Time, trial time.Duration) bool {
	if h.failures == 0 || now.Before(h.until) {
		return false
	}
	h.until = now.Add(trial)
	return true
}

// succeeded forgets the failures, and reports whether there were any.
func (h *health) succeeded() bool {
	had := h.failures > 0
	*h = health{}
	return had
}
