// SPDX-License-Identifier: Apache-2.0

package health

import "time"

const (
	// BackoffBase is how long a server is backed off after its first failure: long enough
	// for other queries to go elsewhere, short enough for a restart.
	BackoffBase = 500 * time.Millisecond

	// BackoffMax limits the time until it is noticed that a server has recovered.
	BackoffMax = 30 * time.Second
)

// Backoff records the failures of a server. The zero value is healthy.
type Backoff struct {
	Failures int       // in a row
	First    time.Time // the first of them
	last     time.Time // the latest of them
	Until    time.Time // the server is backed off until then
}

// Failed records the failure of an attempt that started at that time, and reports whether
// it counts. Attempts that were in progress at an earlier failure have the same cause and
// do not extend the time. random in [0,1) adds jitter, so that many forwarders do not
// return at the same time.
func (b *Backoff) Failed(started, now time.Time, random float64) bool {
	if b.Failures > 0 && !started.After(b.last) {
		return false
	}
	if b.Failures == 0 {
		b.First = now
	}
	b.Failures++
	b.last = now
	d := BackoffMax
	if b.Failures < 8 { // beyond that the shift exceeds the limit
		d = min(d, BackoffBase<<(b.Failures-1))
	}
	d = time.Duration(float64(d) * (0.75 + random/2))
	b.Until = now.Add(d)
	return true
}

// ClaimTrial admits one attempt to a server whose backoff has passed, and backs the server
// off for as long as that attempt may take. It reports false if the server is still backed
// off, is being tried already, or is healthy.
func (b *Backoff) ClaimTrial(now time.Time, trial time.Duration) bool {
	if b.Failures == 0 || now.Before(b.Until) {
		return false
	}
	b.Until = now.Add(trial)
	return true
}

// Succeeded forgets the failures, and reports whether there were any.
func (b *Backoff) Succeeded() bool {
	had := b.Failures > 0
	*b = Backoff{}
	return had
}
