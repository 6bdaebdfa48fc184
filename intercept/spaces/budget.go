// SPDX-License-Identifier: Apache-2.0

package spaces

import (
	"time"

	"sotto/intercept/cgroup"
)

const (
	// searchBurst is how many searches a user or service may cause at once: one for each
	// container that an engine has started.
	searchBurst = 64

	// searchInterval is the time after which one more is possible. A search takes
	// milliseconds, so a user who makes namespaces all the time costs a few percent of a
	// processor.
	searchInterval = 250 * time.Millisecond

	// maxBudgets limits the users and services that are remembered.
	maxBudgets = 1024
)

// budget limits the searches of each user, service or container: an entry is the time at which
// its searches so far are paid for.
type budget map[string]time.Time

// allow reports whether a cgroup may cause a search at now, and counts it.
func (b budget) allow(path string, now time.Time) bool {
	key := cgroup.SubtreeOf(path)
	if key == "" {
		key = path
	}
	paid := b[key]
	if paid.Before(now) {
		paid = now
	}
	if paid = paid.Add(searchInterval); paid.Sub(now) > searchBurst*searchInterval {
		return false
	}
	if _, ok := b[key]; !ok && len(b) >= maxBudgets {
		clear(b)
	}
	b[key] = paid
	return true
}
