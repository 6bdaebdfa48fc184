// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"time"
)

// Defaults of [Config].
const (
	// DefaultMaxBytes holds some 300,000 usual answers.
	DefaultMaxBytes = 64 << 20
	// DefaultMaxTTL is a day, as in unbound: nobody has to wait longer for a
	// mistake in a zone to go away.
	DefaultMaxTTL = 24 * time.Hour
	// DefaultMaxNegativeTTL is what RFC 2308 §5 found to work well.
	DefaultMaxNegativeTTL = time.Hour
	// DefaultMaxStale is for who wants serve-stale and has no wish of their own:
	// the lower end of what RFC 8767 §5 suggests (one to three days). An outage
	// that lasts longer has been noticed. It is no default of MaxStale.
	DefaultMaxStale = 24 * time.Hour

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
	MaxStale       time.Duration // for how long an expired answer is still [Stale]; default: not at all
	Prefetch       bool          // ask for popular answers again before they expire
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
		return cfg, fmt.Errorf("configure the cache: Config.MaxBytes is %d: want 0 (the default, %d) or at least %d",
			cfg.MaxBytes, DefaultMaxBytes, minBytes)
	case cfg.MinTTL < 0 || cfg.MaxTTL < 0 || cfg.MaxNegativeTTL < 0:
		return cfg, errors.New("configure the cache: a TTL of Config is negative")
	case cfg.MinTTL > cfg.MaxTTL:
		return cfg, fmt.Errorf("configure the cache: Config.MinTTL (%v) is above Config.MaxTTL (%v)", cfg.MinTTL, cfg.MaxTTL)
	case cfg.MinTTL > cfg.MaxNegativeTTL:
		return cfg, fmt.Errorf("configure the cache: Config.MinTTL (%v) is above Config.MaxNegativeTTL (%v)", cfg.MinTTL, cfg.MaxNegativeTTL)
	case cfg.MaxTTL < time.Second || cfg.MaxNegativeTTL < time.Second:
		return cfg, errors.New("configure the cache: Config.MaxTTL or MaxNegativeTTL is below a second, the least that DNS can say")
	case cfg.MaxStale < 0:
		return cfg, fmt.Errorf("configure the cache: Config.MaxStale is %v: want 0 (no stale answers) or more", cfg.MaxStale)
	}
	return cfg, nil
}

// ttl brings one TTL of a reply into the limits. None is 0: Put takes no such
// reply.
func (cfg *Config) ttl(ttl uint32, negative bool) uint32 {
	most := cfg.MaxTTL
	if negative {
		most = cfg.MaxNegativeTTL
	}
	return min(max(ttl, seconds(cfg.MinTTL)), seconds(most))
}

// seconds is d as a TTL.
func seconds(d time.Duration) uint32 {
	const maxTTL = 1<<31 - 1 // RFC 2181 §8
	return uint32(min(d/time.Second, maxTTL))
}
