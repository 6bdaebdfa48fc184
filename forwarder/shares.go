// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// leastShare is what a source may always hold of what is free, so that small
	// limits do not come down to nothing.
	leastShare = 16

	// shareShards splits the table of who holds what.
	shareShards = 16
)

// Errors of [shares.take], and what they tell a client in an Extended DNS Error.
var (
	errOverloaded = errors.New("overloaded: too many queries wait for an upstream")
	errGreedy     = errors.New("overloaded: too many queries from here wait for an upstream")
)

// source is who counts as one when something is scarce: a workload, or where none is
// known a client's address. Addresses alone would not do for a workload: it may have
// many, and behind a container network's address translation share one with others.
type source struct {
	workload string
	client   netip.Prefix
}

// clientBits6 is what makes two IPv6 addresses one client: whoever has one
// address usually has the whole /64.
const clientBits6 = 64

// sourceOf is who asks.
func sourceOf(o *Origin, client netip.Addr) source {
	if o.Workload != "" {
		return source{workload: o.Workload}
	}
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = clientBits6
	}
	p, _ := client.Prefix(bits) // fails for no bits of these
	return source{client: p}
}

// String is for logs.
func (s source) String() string {
	if s.workload != "" {
		return s.workload
	}
	return s.client.String()
}

// shares bound what all sources hold together, and have none keep the others out: a
// source may hold as much as is left free. Alone it gets half, and each of n that take
// all they can the (n+1)th part; as much stays free for whoever comes next. A limit
// for each source would have to be guessed, and would bind also where there is
// plenty (this is the dynamic threshold of switches that share a buffer: Choudhury and
// Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
//
// Only who holds something has an entry. It is safe for concurrent use.
type shares struct {
	limit  int64
	taken  atomic.Int64
	seed   maphash.Seed
	shards [shareShards]shareShard
}

type shareShard struct {
	sync.Mutex
	held map[source]int64
}

func newShares(limit int) *shares {
	s := &shares{limit: int64(limit), seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].held = make(map[source]int64)
	}
	return s
}

// take has who hold one more. With an error it does not.
func (s *shares) take(who source) error {
	// Counted first: several at once never hold more than the limit.
	taken := s.taken.Add(1)
	if taken > s.limit {
		s.taken.Add(-1)
		return errOverloaded
	}
	shard := s.shard(who)
	shard.Lock()
	defer shard.Unlock()
	held := shard.held[who]
	if held >= leastShare && held > s.limit-taken {
		s.taken.Add(-1)
		return errGreedy
	}
	shard.held[who] = held + 1
	return nil
}

// give takes back one that who holds.
func (s *shares) give(who source) {
	shard := s.shard(who)
	shard.Lock()
	if held := shard.held[who]; held > 1 {
		shard.held[who] = held - 1
	} else {
		delete(shard.held, who)
	}
	shard.Unlock()
	s.taken.Add(-1)
}

// holders is how many sources hold something.
func (s *shares) holders() (n int) {
	for i := range s.shards {
		shard := &s.shards[i]
		shard.Lock()
		n += len(shard.held)
		shard.Unlock()
	}
	return n
}

func (s *shares) shard(who source) *shareShard {
	return &s.shards[maphash.Comparable(s.seed, who)%shareShards]
}
