// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"
)

// Defaults of [Config].
const (
	// DefaultMaxConns: one connection carries tens of thousands of queries a
	// second; the second one is for the moment when the first loses a packet.
	DefaultMaxConns = 2

	// DefaultMaxInflight leaves most of a connection's 65,536 IDs free, so
	// that random ones are found at once and hard to guess.
	DefaultMaxInflight = 4096

	// DefaultTimeout leaves room below the five seconds after which glibc and
	// musl give up, for the reply to be told.
	DefaultTimeout = 3500 * time.Millisecond

	// DefaultAttemptTimeout is what one server gets while another could be
	// asked. A recursive resolver with a cold cache seldom takes longer.
	DefaultAttemptTimeout = 1500 * time.Millisecond

	// DefaultSilentTimeout is short of DefaultTimeout by enough for a new
	// connection and an answer, so that a query survives a dead path.
	DefaultSilentTimeout = 2 * time.Second

	// DefaultHedgeShare keeps what hedging adds below a tenth, and pays for the
	// one in twenty that p95 leaves over, and for looking at other servers.
	DefaultHedgeShare = 0.08

	// DefaultWarmTime is for how long after a query a connection is kept, and
	// reopened when the server closes it.
	DefaultWarmTime = 3 * time.Minute

	// DefaultMaxAge is long enough for a handshake now and then to cost nothing, and
	// short enough for a moved service to be followed within the hour.
	DefaultMaxAge = time.Hour
)

// Config is what a [Group] is made of. The zero value of a limit or time means
// its default.
type Config struct {
	// Servers are asked in the order that Policy makes of this one. At least one.
	Servers []Server

	// Policy is how servers are chosen; "": [Failover].
	Policy Policy
	// HedgeShare is how many queries [Hedged] may add, as a share of those that
	// come in: more than 0, and at most 1.
	HedgeShare float64

	// RootCAs are the CAs that servers' certificates may come from; nil: the
	// system's.
	RootCAs *x509.CertPool

	// Profile says what becomes of a server that cannot be authenticated. The zero
	// value refuses it.
	Profile Profile

	// Control, if set, is called with every socket before it connects, to mark
	// it as Sotto's own. Its error fails the dial.
	Control func(network, address string, c syscall.RawConn) error

	// MaxConns bounds the connections to one server, those being opened included; not
	// those that get no new queries any more, and end with the ones they have.
	MaxConns    int
	MaxInflight int // queries in flight on one connection; at most 32,768

	// Timeout bounds an exchange; a nearer deadline of its context counts.
	Timeout time.Duration
	// AttemptTimeout bounds what one server gets while another is left.
	AttemptTimeout time.Duration
	// SilentTimeout: a connection that owes replies and brings no byte for so
	// long is dead.
	SilentTimeout time.Duration
	// WarmTime: see [DefaultWarmTime]. Only while [Group.Run] runs.
	WarmTime time.Duration

	// MaxAge: a connection that has been open for so long, or up to a quarter less (so
	// that not all are renewed as one), is replaced: a new one is opened first, the old
	// one gets no new queries and is closed when it owes no reply. A server's load
	// balancing, key changes and forgetting of clients need that. Only while
	// [Group.Run] runs.
	MaxAge time.Duration

	// Log gets what an operator has to know: a server that begins to fail, or
	// is well again. Nil: nothing is logged.
	Log *slog.Logger
}

// validated returns cfg with its defaults filled in, or what is wrong with it.
func (cfg Config) validated() (Config, error) {
	if len(cfg.Servers) == 0 {
		return cfg, errors.New("make an upstream: no servers: name at least one")
	}
	if err := checkServers(cfg.Servers); err != nil {
		return cfg, fmt.Errorf("make an upstream: %w", err)
	}
	if cfg.Profile != Strict && cfg.Profile != Opportunistic {
		return cfg, fmt.Errorf("make an upstream: there is no profile %d", cfg.Profile)
	}
	const maxInflight = 1 << 15 // of 65,536 IDs, so that free ones are found
	if cfg.MaxConns < 0 || cfg.MaxInflight < 0 || cfg.MaxInflight > maxInflight {
		return cfg, fmt.Errorf("make an upstream: %d connections with %d queries each: want 0 (the default) or more, and at most %d queries",
			cfg.MaxConns, cfg.MaxInflight, maxInflight)
	}
	setDefault(&cfg.Policy, Failover)
	if _, err := ParsePolicy(string(cfg.Policy)); err != nil {
		return cfg, fmt.Errorf("make an upstream: %w", err)
	}
	setDefault(&cfg.HedgeShare, DefaultHedgeShare)
	if !(cfg.HedgeShare > 0 && cfg.HedgeShare <= 1) { // NaN is neither
		return cfg, fmt.Errorf("make an upstream: a hedge share of %v: want more than 0 and at most 1, or the policy failover for no hedges", cfg.HedgeShare)
	}
	setDefault(&cfg.MaxConns, DefaultMaxConns)
	setDefault(&cfg.MaxInflight, DefaultMaxInflight)
	for _, t := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&cfg.Timeout, DefaultTimeout},
		{&cfg.AttemptTimeout, DefaultAttemptTimeout},
		{&cfg.SilentTimeout, DefaultSilentTimeout},
		{&cfg.WarmTime, DefaultWarmTime},
		{&cfg.MaxAge, DefaultMaxAge},
	} {
		if *t.v < 0 {
			return cfg, errors.New("make an upstream: a negative time")
		}
		setDefault(t.v, t.def)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// checkServers says what is wrong with a list of servers.
func checkServers(servers []Server) error {
	seen := make(map[string]bool)
	for _, s := range servers {
		for _, a := range s.addrs() {
			if !a.IsValid() || a.Port() == 0 {
				return fmt.Errorf("%q is no address with a port", a)
			}
		}
		if s.Name != "" {
			if err := checkName(s.Name); err != nil {
				return fmt.Errorf("%s: %w", s.Addr, err)
			}
		}
		for _, key := range s.keys() {
			if seen[key] {
				return fmt.Errorf("%s is named twice: leave one out", s)
			}
			seen[key] = true
		}
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
