// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"sotto/forwarder/wire"
)

// Cache keeps replies. It is safe for concurrent use.
type Cache struct {
	cfg  atomic.Pointer[Config]
	mu   sync.Mutex   // held by Configure
	seed maphash.Seed // random, so that nobody can aim at a collision
	// Entries are found by a hash of their key, so that a look-up by bytes
	// makes no string; the key itself is compared after.
	data    *otter.Cache[uint64, *entry]
	count   counters
	evicted atomic.Uint64
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

// New returns an empty cache. [Cache.Close] releases it.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	c := &Cache{seed: maphash.MakeSeed()}
	c.cfg.Store(&cfg)
	// No ExpiryCalculator: an entry knows when it expires, from the time that
	// is passed in, and otter then runs no goroutine but for short maintenance.
	// No StatsRecorder: what otter takes for a hit may be expired, or another
	// key, and it would be called at every one.
	c.data, err = otter.New(&otter.Options[uint64, *entry]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher:       func(_ uint64, e *entry) uint32 { return e.weight() },
		OnAtomicDeletion: func(e otter.DeletionEvent[uint64, *entry]) {
			if e.WasEvicted() {
				c.evicted.Add(1)
			}
		},
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
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Store(&cfg)
	c.data.SetMaximum(uint64(cfg.MaxBytes))
	return nil
}

// Get looks for the answer stored under key that is of use at now, and puts it
// into a, which is left as it was on a Miss. It allocates nothing.
func (c *Cache) Get(key []byte, now time.Time, a *Answer) State {
	count := c.count.of(a)
	e, ok := c.data.GetIfPresent(maphash.Bytes(c.seed, key))
	if !ok || !e.hasKey(key) {
		count.found[Miss].Add(1)
		return Miss
	}
	cfg, n := c.cfg.Load(), now.UnixNano()
	s := e.state(n, cfg.MaxStale)
	count.found[s].Add(1)
	switch s {
	case Fresh:
		a.fill(e, n)
		if cfg.Prefetch && e.askedAgain(n) {
			count.prefetches.Add(1)
			a.Refresh = true
		}
	case Stale:
		a.fill(e, n)
		a.Reply.Stale = true
		a.Failed = e.failedLately(n)
		a.Refresh = a.Failed && e.tryAgain(n)
	}
	return s
}

// Peek is Get for a question that Get was asked already, such as that of a client
// who waited for a refresh in vain: nothing is counted, and nobody is asked to
// refresh.
func (c *Cache) Peek(key []byte, now time.Time, a *Answer) State {
	found, ok := c.data.GetEntryQuietly(maphash.Bytes(c.seed, key))
	if !ok || !found.Value.hasKey(key) {
		return Miss
	}
	e, n := found.Value, now.UnixNano()
	s := e.state(n, c.cfg.Load().MaxStale)
	if s != Miss {
		a.fill(e, n)
		a.Reply.Stale = s == Stale
		a.Failed = a.Reply.Stale && e.failedLately(n)
	}
	return s
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
	cfg := c.cfg.Load()
	if !keyFits(key, r) || !cfg.fits(key, r) {
		return
	}
	switch {
	case keeps(r):
		c.data.Set(maphash.Bytes(c.seed, key), cfg.newEntry(key, r, now))
	case r.Rcode == wire.RcodeServFail && !r.TC:
		c.putFailure(cfg, key, r, now)
	}
}

// keeps tells whether r is an answer that may be kept: what it says itself, but
// for errors, which claim no more than that.
func keeps(r *wire.Reply) bool {
	return r.TTL != 0 && !r.TC && (r.Rcode == wire.RcodeSuccess || r.Rcode == wire.RcodeNXDomain)
}

// fits tells whether r, under key, takes no more than its fair share.
func (cfg *Config) fits(key []byte, r *wire.Reply) bool {
	return int64(entryLen(key, r)+otterBytes) <= cfg.MaxBytes/fairShare
}

// newEntry makes an entry of r, within the limits of cfg.
func (cfg *Config) newEntry(key []byte, r *wire.Reply, stored time.Time) *entry {
	limit := func(ttl uint32) uint32 { return cfg.ttl(ttl, r.Negative) }
	return newEntry(key, r, stored, limit(r.TTL), limit)
}

// putFailure stores a SERVFAIL, unless there is something better.
func (c *Cache) putFailure(cfg *Config, key []byte, r *wire.Reply, now time.Time) {
	limit := func(ttl uint32) uint32 { return min(ttl, failureTTL) }
	n := now.UnixNano()
	c.data.Compute(maphash.Bytes(c.seed, key), func(old *entry, found bool) (*entry, otter.ComputeOp) {
		if found && !old.failure() && old.hasKey(key) && old.state(n, cfg.MaxStale) != Miss {
			old.fail(n)
			return old, otter.CancelOp
		}
		return newEntry(key, r, now, failureTTL, limit), otter.WriteOp
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
	s := Stats{
		Bytes:     int64(c.data.WeightedSize()),
		Entries:   c.data.EstimatedSize(),
		Evictions: c.evicted.Load(),
	}
	c.count.addTo(&s)
	return s
}
