// SPDX-License-Identifier: Apache-2.0

package dnssec

import "time"

// clockSlack is how far the clock may be set back without a loss of what was learned, as in the
// cache of answers.
const clockSlack = 2 * time.Second

// learned is the time at which something was learned, and how long it is used from then.
type learned struct {
	at  time.Time
	ttl time.Duration
}

// left returns for how long it is used from now, at most its TTL. That is not positive if it has
// expired, or if the clock was set back since by more than [clockSlack]: its age is unknown then.
func (l learned) left(now time.Time) time.Duration {
	age := now.Sub(l.at)
	if age < -clockSlack {
		return 0
	}
	return l.ttl - max(age, 0)
}
