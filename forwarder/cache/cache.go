// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"sotto/forwarder/wire"
)

// Cache stores replies. It is safe for concurrent use.
type Cache struct {
	cfg  atomic.Pointer[Config]
	mu   sync.Mutex   // held by Configure
	seed maphash.Seed // random, so that collisions cannot be provoked
	// Entries are found by a hash of their key, so that a lookup needs no string. The
	// key itself is compared afterwards.
	data    *otter.Cache[uint64, *entry]
	count   counters
	evicted atomic.Uint64
	repeat  atomic.Uint32 // see Repeat
}

// Stats has the size of a cache, and counters, which only increase.
type Stats struct {
	Entries    int    // expired ones included
	Bytes      int64  // memory that those use
	Hits       uint64 // lookups that found a fresh answer
	Stale      uint64 // lookups that found a stale answer
	Misses     uint64 // lookups that found neither
	Prefetches uint64 // lookups whose caller was asked to refresh the answer
	Evictions  uint64 // entries removed because the cache was full
}

// New returns an empty cache. [Cache.Close] releases it.
func New(cfg Config) (*Cache, error) {
	cfg, err := cfg.validated()
	if err != nil {
		return nil, err
	}
	c := &Cache{seed: maphash.MakeSeed()}
	c.cfg.Store(&cfg)
	// No ExpiryCalculator: entries have their own expiry, checked with the time that
	// is passed in, and otter then needs goroutines only for short maintenance. No
	// StatsRecorder: a hit for otter may be expired or have another key, and the
	// recorder would be called for every lookup.
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

// Configure changes the limits of a cache in use, and evicts what no longer fits. Limits
// on TTLs apply to answers that are stored later. An invalid cfg changes nothing.
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

// Get looks up the answer stored under key, and sets a to it unless the result is Miss. It
// does not allocate.
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
		a.repeat = c.repeat.Load()
		if (cfg.Prefetch || a.repeat != 0) && e.countHit(n) && cfg.Prefetch {
			count.prefetches.Add(1)
			a.Refresh = true
		}
	case Stale:
		a.fill(e, n)
		a.Reply.Stale = true
		a.Failed = e.failedRecently(n)
		a.Refresh = a.Failed && e.retryRefresh(n)
	}
	return s
}

// Peek is for a query that Get was called for before, such as one that waited for a refresh
// that failed. Unlike Get it does not count the lookup, and does not set a.Refresh.
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
		a.Failed = a.Reply.Stale && e.failedRecently(n)
	}
	return s
}

// Put stores a copy of r under key, for as long as r and the configuration allow. key is
// the result of [wire.AppendKey] for r's question, optionally with a suffix of the caller;
// a reply to another question is not stored. A reply that may not be cached (an error, a
// truncated reply, TTL 0) is ignored. One that is too long removes the answer under key,
// which it supersedes.
func (c *Cache) Put(key []byte, r *wire.Reply, now time.Time) {
	cfg := c.cfg.Load()
	switch {
	case !keyFits(key, r) || !cacheable(r):
	case !cfg.fits(key, r):
		c.Remove(key)
	default:
		c.data.Set(maphash.Bytes(c.seed, key), cfg.newEntry(key, r, now))
	}
}

// cacheable reports whether r is an answer that may be cached. Errors are not, whatever
// their TTL.
func cacheable(r *wire.Reply) bool {
	return r.TTL != 0 && !r.TC && (r.Rcode == wire.RcodeSuccess || r.Rcode == wire.RcodeNXDomain)
}

// Lifetime returns how long r may be used from when it was received, and how long after that as
// a stale answer. Both are 0 if r may not be cached.
func (c *Cache) Lifetime(r *wire.Reply) (fresh, stale time.Duration) {
	if !cacheable(r) {
		return 0, 0
	}
	cfg := c.cfg.Load()
	return time.Duration(cfg.ttl(r.TTL, r.Negative)) * time.Second, cfg.MaxStale
}

// fits reports whether r and key are small enough for the cache.
func (cfg *Config) fits(key []byte, r *wire.Reply) bool {
	return int64(entryLen(key, r)+otterBytes) <= cfg.MaxBytes/maxEntryFraction
}

// newEntry returns an entry for r, within the limits of cfg.
func (cfg *Config) newEntry(key []byte, r *wire.Reply, stored time.Time) *entry {
	limit := func(ttl uint32) uint32 { return cfg.ttl(ttl, r.Negative) }
	return newEntry(key, r, stored, limit(r.TTL), limit)
}

// Limit applies the limits of the configuration to the TTLs of r, which no other goroutine
// uses yet, so that the client whose query filled the cache gets the same TTLs as later
// ones. A minimum does not apply to a reply that may not be cached.
func (c *Cache) Limit(r *wire.Reply) {
	cfg, minimum := c.cfg.Load(), cacheable(r)
	for _, off := range r.TTLs {
		field := r.Msg[off : off+4]
		ttl := binary.BigEndian.Uint32(field)
		limited := cfg.ttl(ttl, r.Negative)
		if minimum || limited < ttl {
			binary.BigEndian.PutUint32(field, limited)
		}
	}
}

// Unsigned stores the answer under key that follows from the one under signed, the key of
// the same question with DO=1: without signatures, and with the same age and lifetime. It
// reports false if there is no answer, if that is not better than one in the given state,
// or if none can be made of it. The message is made once, not for every query.
func (c *Cache) Unsigned(signed, key []byte, state State, now time.Time) bool {
	found, ok := c.data.GetEntryQuietly(maphash.Bytes(c.seed, signed))
	if !ok || !found.Value.hasKey(signed) {
		return false
	}
	e, cfg := found.Value, c.cfg.Load()
	if s := e.state(now.UnixNano(), cfg.MaxStale); s == Miss || state != Miss && s != Fresh {
		return false
	}
	var a Answer
	a.fill(e, now.UnixNano())
	r, ok := a.Reply.WithoutSignatures()
	if !ok {
		return false
	}
	var room [maxEDEs]wire.EDE
	_, _, packed := e.tail()
	r.EDE = unpackEDEs(&room, packed)
	if !keyFits(key, &r) || !cfg.fits(key, &r) {
		return false
	}
	same := func(ttl uint32) uint32 { return ttl }
	c.data.Set(maphash.Bytes(c.seed, key), newEntry(key, &r, time.Unix(0, e.stored), e.ttl, same))
	return true
}

// Failed records that the answer stored under key, if there is one, could not be refreshed:
// for half a minute [Answer.Failed] is set once it is stale.
func (c *Cache) Failed(key []byte, now time.Time) {
	if e, ok := c.data.GetEntryQuietly(maphash.Bytes(c.seed, key)); ok && e.Value.hasKey(key) {
		e.Value.fail(now.UnixNano())
	}
}

// Flush removes all entries.
func (c *Cache) Flush() { c.data.InvalidateAll() }

// Close removes all entries and stops background work. The cache must not be used
// afterwards.
func (c *Cache) Close() {
	c.data.StopAllGoroutines()
	c.data.InvalidateAll()
}

// Stats returns counters and sizes after pending evictions. It waits for the lock of the
// eviction policy, so it must not be called on the path of a query.
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
