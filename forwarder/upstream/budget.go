// SPDX-License-Identifier: Apache-2.0

package upstream

import "sync/atomic"

const (
	// token is one hedge, in the unit of a budget.
	token = 1 << 20

	// maxTokens is how many hedges a quiet time saves up for a bad moment.
	maxTokens = 16
)

// budget is the token bucket that hedges are paid from: every query brings the
// same share of one in, so that a network on which everything is late is never
// asked more than that much more. It starts empty, which makes the share a bound
// at every moment. It is safe for concurrent use.
type budget struct {
	share  int64 // what a query brings
	tokens atomic.Int64
}

func newBudget(share float64) *budget { return &budget{share: int64(share * token)} }

// earn enters a query.
func (b *budget) earn() {
	// Two at once may go over the limit by one's share, which is no harm.
	if b.tokens.Load() < maxTokens*token {
		b.tokens.Add(b.share)
	}
}

// spend takes the price of one hedge, if it is there.
func (b *budget) spend() bool {
	for {
		have := b.tokens.Load()
		if have < token {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-token) {
			return true
		}
	}
}
