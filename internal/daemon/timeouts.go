// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"time"

	"sotto/forwarder"
)

// The forwarder waits as long as the settings of a group say.
var _ forwarder.Patient = (*member)(nil)

// Timeout implements [forwarder.Patient].
func (m *member) Timeout() time.Duration { return m.servers.Timeout() }

// lateness is the time for delays around the timeout of a query.
const lateness = 2 * time.Second

// retireTime is how long after a change of the router a query may still reach, or wait at, a
// group of the old router.
func (m *member) retireTime() time.Duration { return m.Timeout() + lateness }

// queryTime returns how long a query that was read may take at most: the longest timeout of all
// groups, or of the queries that go to their original destination.
func (g *groups) queryTime() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	longest := forwarder.DefaultTimeout
	for m := range g.open {
		longest = max(longest, m.Timeout())
	}
	return longest + lateness
}
