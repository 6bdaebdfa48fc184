// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	// minShare is what a source may always hold as long as any is free, so that
	// small limits remain useful.
	minShare = 16

	// shareShards is the number of parts that the table of holders is split into.
	shareShards = 16
)

// Errors of [Shares.Acquire]. Clients see their texts in an Extended DNS Error.
var (
	// ErrOverloaded means that the limit for all sources is reached.
	ErrOverloaded = errors.New("overloaded: too many queries are waiting for an upstream")
	// ErrOverShare means that the source holds its share already.
	ErrOverShare = errors.New("overloaded: too many queries from this client are waiting for an upstream")
)

// Shares limits what all sources hold together and prevents one source from
// keeping the others out: a source may hold as much as is left free. Alone it gets
// half. Each of n sources that acquire all they can gets 1/(n+1), and as much stays
// free for the next one. A fixed limit per source would have to be guessed, and
// would apply even when plenty is free. This is the dynamic threshold of switches
// with a shared buffer (Choudhury and Hahne, IEEE/ACM Transactions on Networking
// 6(2), 1998).
//
// Only sources that hold something have an entry.
type Shares struct {
	limit  int64
	inUse  atomic.Int64
	seed   maphash.Seed
	shards [shareShards]shareShard
}

type shareShard struct {
	sync.Mutex
	held map[Source]int64
}

// NewShares returns shares of limit units.
func NewShares(limit int) *Shares {
	s := &Shares{limit: int64(limit), seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].held = make(map[Source]int64)
	}
	return s
}

// Acquire adds one to what src holds, or returns [ErrOverloaded] or [ErrOverShare].
func (s *Shares) Acquire(src Source) error {
	// Count first, so that concurrent calls never exceed the limit together.
	inUse := s.inUse.Add(1)
	if inUse > s.limit {
		s.inUse.Add(-1)
		return ErrOverloaded
	}
	shard := s.shard(src)
	shard.Lock()
	defer shard.Unlock()
	held := shard.held[src]
	if held >= minShare && held > s.limit-inUse {
		s.inUse.Add(-1)
		return ErrOverShare
	}
	shard.held[src] = held + 1
	return nil
}

// Release gives back one unit that src holds.
func (s *Shares) Release(src Source) {
	shard := s.shard(src)
	shard.Lock()
	if held := shard.held[src]; held > 1 {
		shard.held[src] = held - 1
	} else {
		delete(shard.held, src)
	}
	shard.Unlock()
	s.inUse.Add(-1)
}

// InUse returns how much all sources hold together. It may include calls of
// [Shares.Acquire] that are about to fail.
func (s *Shares) InUse() int { return int(s.inUse.Load()) }

// Sources returns the number of sources that hold something.
func (s *Shares) Sources() (n int) {
	for i := range s.shards {
		shard := &s.shards[i]
		shard.Lock()
		n += len(shard.held)
		shard.Unlock()
	}
	return n
}

func (s *Shares) shard(src Source) *shareShard {
	return &s.shards[maphash.Comparable(s.seed, src)%shareShards]
}
