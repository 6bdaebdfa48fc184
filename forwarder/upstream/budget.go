// SPDX-License-Identifier: Apache-2.0

package upstream

import "sync/atomic"

const (
	// token is the cost of one hedge, in the unit of a budget.
	token = 1 << 20

	// maxTokens is the number of hedges that can be saved up.
	maxTokens = 16
)

// budget is a token bucket that pays for hedges. Every query adds the same share of a
// token, which limits the additional queries even on a network where every reply is late.
// The bucket starts empty, so that the limit holds at every moment. It is safe for
// concurrent use.
type budget struct {
	share  int64 // added by a query
	tokens atomic.Int64
}

func newBudget(share float64) *budget { return &budget{share: int64(share * token)} }

// earn adds the share of one query.
func (b *budget) earn() {
	// Concurrent calls may exceed the limit by one share each, which does no harm.
	if b.tokens.Load() < maxTokens*token {
		b.tokens.Add(b.share)
	}
}

// spend takes one token. It reports false if there is none.
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
