// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of [Config].
const (
	// DefaultMaxBytes is enough for about 300,000 usual answers.
	DefaultMaxBytes = 64 << 20
	// DefaultMaxTTL is a day, as in unbound: mistakes in a zone are cached no longer.
	DefaultMaxTTL = 24 * time.Hour
	// DefaultMaxNegativeTTL is a value that works well according to RFC 2308 §5.
	DefaultMaxNegativeTTL = time.Hour
	// DefaultMaxStale is the value for users who enable serve-stale without their own:
	// the lower end of what RFC 8767 §5 suggests (one to three days). Longer outages do
	// not go unnoticed. MaxStale itself is 0 by default.
	DefaultMaxStale = 24 * time.Hour

	// minBytes is the minimum of MaxBytes: any answer that fits a UDP reply can be
	// cached.
	minBytes = 128 << 10
	// maxEntryFraction limits an entry to a fraction of MaxBytes, so that an upstream
	// cannot evict everything else with a few replies of 65,535 bytes.
	maxEntryFraction = 64
)

// Config configures a [Cache]. The zero value of a field means its default.
type Config struct {
	MaxBytes       int64         // memory limit, overhead included
	MinTTL         time.Duration // raises shorter TTLs, except 0, which forbids caching; default: none
	MaxTTL         time.Duration // lowers longer TTLs
	MaxNegativeTTL time.Duration // the same for NXDOMAIN and NODATA
	MaxStale       time.Duration // how long an expired answer is [Stale]; default: not at all
	Prefetch       bool          // refresh popular answers before they expire
}

// validated returns cfg with its defaults filled in, or an error.
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
		return cfg, fmt.Errorf("configure the cache: Config.MaxBytes is %d: want 0 (the default, %d) or at least %d",
			cfg.MaxBytes, DefaultMaxBytes, minBytes)
	case cfg.MinTTL < 0 || cfg.MaxTTL < 0 || cfg.MaxNegativeTTL < 0:
		return cfg, errors.New("configure the cache: a TTL of Config is negative")
	case cfg.MinTTL > cfg.MaxTTL:
		return cfg, fmt.Errorf("configure the cache: Config.MinTTL (%v) is above Config.MaxTTL (%v)", cfg.MinTTL, cfg.MaxTTL)
	case cfg.MinTTL > cfg.MaxNegativeTTL:
		return cfg, fmt.Errorf("configure the cache: Config.MinTTL (%v) is above Config.MaxNegativeTTL (%v)", cfg.MinTTL, cfg.MaxNegativeTTL)
	case cfg.MaxTTL < time.Second || cfg.MaxNegativeTTL < time.Second:
		return cfg, errors.New("configure the cache: Config.MaxTTL or MaxNegativeTTL is below a second, the unit of TTLs")
	case cfg.MaxStale < 0:
		return cfg, fmt.Errorf("configure the cache: Config.MaxStale is %v: want 0 (no stale answers) or more", cfg.MaxStale)
	}
	return cfg, nil
}

// ttl applies the limits to one TTL of a reply. It is never 0: Put ignores such replies.
func (cfg *Config) ttl(ttl uint32, negative bool) uint32 {
	most := cfg.MaxTTL
	if negative {
		most = cfg.MaxNegativeTTL
	}
	return min(max(ttl, seconds(cfg.MinTTL)), seconds(most))
}

// seconds returns d as a TTL.
func seconds(d time.Duration) uint32 {
	const maxTTL = 1<<31 - 1 // RFC 2181 §8
	return uint32(min(d/time.Second, maxTTL))
}
