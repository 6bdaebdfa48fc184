// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"sotto/forwarder/tap"
	"sotto/forwarder/upstream/order"
	"sotto/forwarder/upstream/proxy"
	"sotto/forwarder/upstream/transport"
)

// Defaults of [Config].
const (
	// DefaultMaxConns is two: one connection carries tens of thousands of queries per
	// second, and the second one is used when the first loses a packet.
	DefaultMaxConns = 2

	// DefaultMaxInflight leaves most of a connection's 65,536 IDs free, so that random
	// ones are found quickly and hard to guess.
	DefaultMaxInflight = 4096

	// DefaultTimeout is shorter than the five seconds after which glibc and musl give up,
	// so that the client still receives the error.
	DefaultTimeout = 3500 * time.Millisecond

	// DefaultAttemptTimeout is how long one server is waited for until another one is asked
	// as well. A recursive resolver with a cold cache rarely takes longer.
	DefaultAttemptTimeout = 1500 * time.Millisecond

	// DefaultSilentTimeout is shorter than DefaultTimeout by enough time for a new
	// connection and a reply, so that a query survives a dead path.
	DefaultSilentTimeout = 2 * time.Second

	// DefaultHedgeShare limits the additional queries of hedging to less than a tenth. It
	// covers the one reply in twenty that is slower than p95, and the measurement of other
	// servers.
	DefaultHedgeShare = 0.08

	// DefaultWarmTime is how long after a query a connection is kept open, and reopened
	// when the server closes it.
	DefaultWarmTime = 3 * time.Minute

	// DefaultNoEDNSTime is how long a server that rejected EDNS is asked without it: as
	// long as Unbound remembers what it knows of a server.
	DefaultNoEDNSTime = 15 * time.Minute

	// DefaultMaxAge makes the cost of handshakes negligible, and is short enough to follow
	// a service that moved within an hour.
	DefaultMaxAge = time.Hour
)

// Config configures a [Group]. The zero value of a limit or time means its default.
type Config struct {
	// Servers are the servers of the group, at least one. Policy determines the order in
	// which they are asked.
	Servers []Server

	// Bootstrap are servers with addresses that resolve the names of Servers without one, and
	// nothing else. If there are none, the Servers with addresses resolve the others. Their
	// certificates are checked like those of Servers; ClientCert is not sent to them.
	Bootstrap []Server

	// Policy determines how servers are selected; "" means [order.Failover].
	Policy order.Policy
	// Split, unless nil, distributes domains over the services of the group. Policy has to be
	// [order.Failover] then.
	Split *Split
	// HedgeShare limits the queries that [order.Hedged] adds, as a share of all queries: more
	// than 0 and at most 1.
	HedgeShare float64

	// RootCAs returns the trusted certificate authorities; nil: the system's. It is called when the first certificate is
	// verified, by several goroutines.
	RootCAs func() *x509.CertPool
	// ConfiguredCAs, if not nil, are those of RootCAs that are tried first: RootCAs is not called for a server that one of
	// them has certified.
	ConfiguredCAs *x509.CertPool

	// ClientCert is sent to servers that request a certificate; nil: none is sent.
	ClientCert *tls.Certificate

	// Profile determines whether a server that cannot be authenticated is used. The zero
	// value, [Strict], refuses it.
	Profile Profile

	// Proxy, unless nil, carries all connections, also those to Bootstrap. Servers over QUIC are
	// refused then.
	Proxy *proxy.Proxy

	// Control, unless nil, is called with every socket before it connects, to mark it as
	// Sotto's own. Its error fails the dial.
	Control func(network, address string, c syscall.RawConn) error

	// MaxConns limits the connections to one server, including those that are being
	// opened, but not those that only finish the queries they have.
	MaxConns    int
	MaxInflight int // queries in flight on one connection; at most 32,768

	// Timeout limits an exchange, unless its own deadline is earlier.
	Timeout time.Duration
	// AttemptTimeout is how long one server is waited for until another one is asked as
	// well.
	AttemptTimeout time.Duration
	// SilentTimeout is the time without any byte after which a connection with pending
	// replies is considered dead, unless the server's kernel, or its end of a QUIC
	// connection, has acknowledged the queries. Then it only gets no more queries, and this
	// one is sent on another connection as well.
	SilentTimeout time.Duration
	// WarmTime is how long connections are kept open; see [DefaultWarmTime]. It applies
	// while [Group.Run] runs.
	WarmTime time.Duration

	// NoEDNSTime is how long a server that rejects queries with an OPT record (FORMERR,
	// NOTIMP or BADVERS), but answers those without, is asked without (RFC 6891 §6.2.2).
	// The next query after that has an OPT record again.
	NoEDNSTime time.Duration

	// MaxAge is the age at which a connection is replaced, or up to a quarter less so that
	// connections are not all replaced together. A new one is opened first; the old one
	// gets no new queries and is closed when no reply is pending. This lets a server
	// balance load, change keys and forget clients. It applies while [Group.Run] runs.
	MaxAge time.Duration

	// Tap, if set, receives the messages sent to the servers and their replies, those of
	// probes and measurements included.
	Tap tap.Func

	// Log receives what an operator has to know: a server that starts to fail, or has
	// recovered. If nil, nothing is logged.
	Log *slog.Logger
}

// validated returns cfg with defaults in place of zero values, or an error.
func (cfg Config) validated() (Config, error) {
	if len(cfg.Servers) == 0 {
		return cfg, errors.New("create an upstream group: no servers: specify at least one")
	}
	for _, err := range []error{checkServers(cfg.Servers), checkServers(cfg.Bootstrap), checkNames(&cfg), checkProxy(&cfg)} {
		if err != nil {
			return cfg, fmt.Errorf("create an upstream group: %w", err)
		}
	}
	if cfg.Profile != Strict && cfg.Profile != Opportunistic {
		return cfg, fmt.Errorf("create an upstream group: unknown profile %d", cfg.Profile)
	}
	const maxInflight = 1 << 15 // of 65,536 IDs, so that free ones are found quickly
	if cfg.MaxConns < 0 || cfg.MaxInflight < 0 || cfg.MaxInflight > maxInflight {
		return cfg, fmt.Errorf("create an upstream group: %d connections with %d queries each: want 0 (the default) or more, and at most %d queries",
			cfg.MaxConns, cfg.MaxInflight, maxInflight)
	}
	setDefault(&cfg.Policy, order.Failover)
	if _, err := order.ParsePolicy(string(cfg.Policy)); err != nil {
		return cfg, fmt.Errorf("create an upstream group: %w", err)
	}
	if cfg.Split != nil && cfg.Policy != order.Failover {
		return cfg, fmt.Errorf("create an upstream group: the policy %s has no effect, because the domain selects the server: remove it", cfg.Policy)
	}
	setDefault(&cfg.HedgeShare, DefaultHedgeShare)
	if !(cfg.HedgeShare > 0 && cfg.HedgeShare <= 1) { // also rejects NaN
		return cfg, fmt.Errorf("create an upstream group: invalid hedge share %v: want more than 0 and at most 1, or the policy failover for no hedging", cfg.HedgeShare)
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
		{&cfg.NoEDNSTime, DefaultNoEDNSTime},
		{&cfg.MaxAge, DefaultMaxAge},
	} {
		if *t.v < 0 {
			return cfg, errors.New("create an upstream group: negative duration: want 0 (the default) or more")
		}
		setDefault(t.v, t.def)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// checkProxy returns an error if the proxy does not carry the connections to a server.
func checkProxy(cfg *Config) error {
	if cfg.Proxy == nil {
		return nil
	}
	for _, s := range slices.Concat(cfg.Servers, cfg.Bootstrap) {
		if s.Protocol.Network() == "UDP" {
			return fmt.Errorf("%s uses QUIC, which the proxy %s does not carry: use tls:// or https://, or remove proxy", s, cfg.Proxy)
		}
	}
	return nil
}

// transport returns the configuration of the transport to s.
func (cfg *Config) transport(s Server, o transport.Observer) transport.Config {
	return transport.Config{
		Server: s, Profile: cfg.Profile, RootCAs: cfg.RootCAs, ConfiguredCAs: cfg.ConfiguredCAs, ClientCert: cfg.ClientCert, Proxy: cfg.Proxy, Control: cfg.Control,
		MaxConns: cfg.MaxConns, MaxInflight: cfg.MaxInflight,
		DialTimeout: cfg.Timeout, SilentTimeout: cfg.SilentTimeout, WarmTime: cfg.WarmTime, MaxAge: cfg.MaxAge,
		Log: cfg.Log, Observer: o, Tap: cfg.Tap,
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
