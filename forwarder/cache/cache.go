// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"

	"sotto/forwarder/wire"
)

// Cache keeps replies. It is safe for concurrent use.
type Cache struct {
	cfg  atomic.Pointer[Config]
	seed maphash.Seed // random, so that nobody can aim at a collision
	// Entries are found by a hash of their key, so that a look-up by bytes
	// makes no string; the key itself is compared after.
	data       *otter.Cache[uint64, *entry]
	count      *stats.Counter
	stale      atomic.Uint64
	prefetches atomic.Uint64
}

// Stats is what a cache did and holds. Counters only grow.
type Stats struct {
	Entries    int    // held, expired ones included
	Bytes      int64  // that they take
	Hits       uint64 // look-ups that found a fresh answer
	Stale      uint64 // that found a stale one
	Misses     uint64 // that found neither
	Prefetches uint64 // that were asked to refresh what they found
	Evictions  uint64 // for want of room
}

// evictions lets otter count evictions only: what it takes for a hit may be
// expired, or another key.
type evictions struct{ *stats.Counter }

func (evictions) RecordHits(int)   {}
func (evictions) RecordMisses(int) {}

// New returns an empty cache. [Cache.Close] releases it.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	c := &Cache{seed: maphash.MakeSeed(), count: stats.NewCounter()}
	c.cfg.Store(&cfg)
	// No ExpiryCalculator: an entry knows when it expires, from the time that
	// is passed in, and otter then runs no goroutine but for short maintenance.
	c.data, err = otter.New(&otter.Options[uint64, *entry]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher:       func(_ uint64, e *entry) uint32 { return e.weight() },
		StatsRecorder: evictions{c.count},
	})
	if err != nil {
		return nil, fmt.Errorf("make a cache: %w", err)
	}
	return c, nil
}

// Configure changes the limits of a cache in use, and evicts what no longer fits.
// Limits on TTLs hold for what is stored from here on. An invalid cfg changes
// nothing.
func (c *Cache) Configure(cfg Config) error {
	cfg, err := cfg.validated()
	if err != nil {
		return err
	}
	c.cfg.Store(&cfg)
	c.data.SetMaximum(uint64(cfg.MaxBytes))
	return nil
}

// Get looks for the answer stored under key that is of use at now, and puts it
// into a, which is left as it was on a Miss. It allocates nothing.
func (c *Cache) Get(key []byte, now time.Time, a *Answer) State {
	e, ok := c.data.GetIfPresent(maphash.Bytes(c.seed, key))
	if !ok || !e.hasKey(key) {
		c.count.RecordMisses(1)
		return Miss
	}
	cfg, n := c.cfg.Load(), now.UnixNano()
	s := e.state(n, cfg.MaxStale)
	if s == Miss {
		c.count.RecordMisses(1)
		return Miss
	}
	a.fill(e, s, n)
	if s == Stale {
		c.stale.Add(1)
		a.Failed = e.failedLately(n)
		return Stale
	}
	c.count.RecordHits(1)
	if cfg.Prefetch && !e.failure() && e.askedAgain(n) {
		c.prefetches.Add(1)
		a.Refresh = true
	}
	return Fresh
}

// Put stores a copy of r under key, for as long as r and the configuration
// allow. key is that of [wire.AppendKey] for r's question, with or without
// something of the caller's behind it; a reply to another question is not
// stored. What may not be cached (most errors, a truncated reply, TTL 0) changes
// nothing.
//
// A SERVFAIL is kept for a few seconds, but never in place of an answer that is
// fresh or stale: over one it means the same as [Cache.Failed].
func (c *Cache) Put(key []byte, r *wire.Reply, now time.Time) {
	if r.TC || !keyFits(key, r) {
		return
	}
	cfg := c.cfg.Load()
	if int64(entryLen(key, r)+otterBytes) > cfg.MaxBytes/fairShare {
		return
	}
	switch {
	case r.Rcode == wire.RcodeServFail:
		c.putFailure(cfg, key, r, now)
	case r.TTL != 0 && (r.Rcode == wire.RcodeSuccess || r.Rcode == wire.RcodeNXDomain):
		limit := func(ttl uint32) uint32 { return cfg.ttl(ttl, r.Negative) }
		c.data.Set(maphash.Bytes(c.seed, key), newEntry(key, r, now, limit(r.TTL), limit))
	}
}

// putFailure stores a SERVFAIL, unless there is something better.
func (c *Cache) putFailure(cfg *Config, key []byte, r *wire.Reply, now time.Time) {
	limit := func(ttl uint32) uint32 { return min(ttl, failureTTL) }
	failure := newEntry(key, r, now, failureTTL, limit)
	n := now.UnixNano()
	c.data.Compute(maphash.Bytes(c.seed, key), func(old *entry, found bool) (*entry, otter.ComputeOp) {
		if found && !old.failure() && old.hasKey(key) && old.state(n, cfg.MaxStale) != Miss {
			old.fail(n)
			return old, otter.CancelOp
		}
		return failure, otter.WriteOp
	})
}

// Failed notes that the answer stored under key, if there is one, could not be
// refreshed: for half a minute, [Answer.Failed] says so once it is stale.
func (c *Cache) Failed(key []byte, now time.Time) {
	if e, ok := c.data.GetEntryQuietly(maphash.Bytes(c.seed, key)); ok && e.Value.hasKey(key) {
		e.Value.fail(now.UnixNano())
	}
}

// Flush drops every entry.
func (c *Cache) Flush() { c.data.InvalidateAll() }

// Close drops every entry and stops what works in the background. The cache
// must not be used after it.
func (c *Cache) Close() {
	c.data.StopAllGoroutines()
	c.data.InvalidateAll()
}

// Stats returns what the cache did and holds, after evicting what is due. It
// waits for eviction's lock: not for the path of a query.
func (c *Cache) Stats() Stats {
	c.data.CleanUp()
	s := c.count.Snapshot()
	return Stats{
		Bytes:      int64(c.data.WeightedSize()),
		Entries:    c.data.EstimatedSize(),
		Hits:       s.Hits,
		Stale:      c.stale.Load(),
		Misses:     s.Misses,
		Prefetches: c.prefetches.Load(),
		Evictions:  s.Evictions,
	}
}
