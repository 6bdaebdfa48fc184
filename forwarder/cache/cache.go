// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"

	"sotto/forwarder/wire"
)

// Defaults of [Config].
const (
	// DefaultMaxBytes holds some 200,000 usual answers.
	DefaultMaxBytes = 64 << 20
	// DefaultMaxTTL is a day, as in unbound: nobody has to wait longer for a
	// mistake in a zone to go away.
	DefaultMaxTTL = 24 * time.Hour
	// DefaultMaxNegativeTTL is what RFC 2308 §5 found to work well.
	DefaultMaxNegativeTTL = time.Hour

	// minBytes is the least MaxBytes that makes sense: it takes every answer
	// that came over UDP.
	minBytes = 128 << 10
	// fairShare is the part of MaxBytes that one entry may take, so that no
	// upstream throws everything else out with a few replies of 65,535 bytes.
	fairShare = 64
)

// Config is what a [Cache] is made of. The zero value of a field is its default.
type Config struct {
	MaxBytes       int64         // memory bound, overhead included
	MinTTL         time.Duration // raises shorter TTLs but 0, which forbids caching; default: none
	MaxTTL         time.Duration // lowers longer TTLs
	MaxNegativeTTL time.Duration // the same for NXDOMAIN and NODATA
}

// validated returns cfg with its defaults filled in, or what is wrong with it.
func (cfg Config) validated() (Config, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = max(DefaultMaxTTL, cfg.MinTTL)
	}
	if cfg.MaxNegativeTTL == 0 {
		cfg.MaxNegativeTTL = min(max(DefaultMaxNegativeTTL, cfg.MinTTL), cfg.MaxTTL)
	}
	switch {
	case cfg.MaxBytes < minBytes:
		return cfg, fmt.Errorf("make a cache: Config.MaxBytes is %d: want 0 (the default, %d) or at least %d",
			cfg.MaxBytes, DefaultMaxBytes, minBytes)
	case cfg.MinTTL < 0 || cfg.MaxTTL < 0 || cfg.MaxNegativeTTL < 0:
		return cfg, errors.New("make a cache: a TTL of Config is negative")
	case cfg.MinTTL > cfg.MaxTTL:
		return cfg, fmt.Errorf("make a cache: Config.MinTTL (%v) is above Config.MaxTTL (%v)", cfg.MinTTL, cfg.MaxTTL)
	case cfg.MinTTL > cfg.MaxNegativeTTL:
		return cfg, fmt.Errorf("make a cache: Config.MinTTL (%v) is above Config.MaxNegativeTTL (%v)", cfg.MinTTL, cfg.MaxNegativeTTL)
	case cfg.MaxTTL < time.Second || cfg.MaxNegativeTTL < time.Second:
		return cfg, errors.New("make a cache: Config.MaxTTL or MaxNegativeTTL is below a second, the least that DNS can say")
	}
	return cfg, nil
}

// Cache keeps replies. It is safe for concurrent use.
type Cache struct {
	cfg  Config
	seed maphash.Seed // random, so that nobody can aim at a collision
	// Entries are found by a hash of their key, so that a look-up by bytes
	// makes no string; the key itself is compared after.
	data  *otter.Cache[uint64, *Entry]
	count *stats.Counter
}

// Stats is what a cache did and holds. Counters only grow.
type Stats struct {
	Entries   int   // held, expired ones included
	Bytes     int64 // that they take
	Hits      uint64
	Misses    uint64
	Evictions uint64 // for want of room
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
	c := &Cache{cfg: cfg, seed: maphash.MakeSeed(), count: stats.NewCounter()}
	// No ExpiryCalculator: an entry knows when it expires, from the time that
	// is passed in, and otter then runs no goroutine but for short maintenance.
	c.data, err = otter.New(&otter.Options[uint64, *Entry]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher:       func(_ uint64, e *Entry) uint32 { return e.weight },
		StatsRecorder: evictions{c.count},
	})
	if err != nil {
		return nil, fmt.Errorf("make a cache: %w", err)
	}
	return c, nil
}

// Get returns the entry stored under key (of [wire.AppendKey]) that holds at
// now. The entry is shared: read only.
func (c *Cache) Get(key []byte, now time.Time) (*Entry, bool) {
	e, ok := c.data.GetIfPresent(maphash.Bytes(c.seed, key))
	if !ok || string(e.key) != string(key) || !e.fresh(now) {
		c.count.RecordMisses(1)
		return nil, false
	}
	c.count.RecordHits(1)
	return e, true
}

// Put stores a copy of r under key, for as long as r and the configuration
// allow. What may not be cached (an error, a truncated reply, TTL 0) changes
// nothing: a SERVFAIL never replaces good data, not even expired.
func (c *Cache) Put(key []byte, r *wire.Reply, now time.Time) {
	if r.TTL == 0 || r.TC || r.Rcode != wire.RcodeSuccess && r.Rcode != wire.RcodeNXDomain {
		return
	}
	if int64(minWeight+len(key)+len(r.Msg)) > c.cfg.MaxBytes/fairShare {
		return
	}
	least, most := seconds(c.cfg.MinTTL), seconds(c.cfg.MaxTTL)
	if r.Negative {
		most = seconds(c.cfg.MaxNegativeTTL)
	}
	e := newEntry(key, r, now, least, most)
	c.data.Set(maphash.Bytes(c.seed, key), e)
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
		Bytes:     int64(c.data.WeightedSize()),
		Entries:   c.data.EstimatedSize(),
		Hits:      s.Hits,
		Misses:    s.Misses,
		Evictions: s.Evictions,
	}
}

// seconds is d as a TTL.
func seconds(d time.Duration) uint32 {
	const maxTTL = 1<<31 - 1 // RFC 2181 §8
	return uint32(min(d/time.Second, maxTTL))
}
