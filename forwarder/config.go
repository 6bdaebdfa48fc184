// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"sotto/forwarder/cache"
	"sotto/forwarder/shared"
	"sotto/forwarder/tap"
)

// Defaults of [Config]'s limits.
const (
	// DefaultTimeout leaves a margin to the five seconds after which glibc and musl
	// query the next nameserver or give up.
	DefaultTimeout = 3800 * time.Millisecond

	// DefaultStaleAfter is RFC 8767 §5's client response timer.
	DefaultStaleAfter = 1800 * time.Millisecond

	// DefaultMaxMisses limits the upstream queries in flight. Each takes a few
	// kilobytes, so an upstream that hangs costs tens of megabytes.
	DefaultMaxMisses = 8192

	// DefaultMaxWaiters limits the client queries that wait for those.
	DefaultMaxWaiters = 65536

	// DefaultMaxRelays limits the queries in flight to original destinations. Each
	// has a socket, and many systems limit a process to 1024 open files by default
	// (a soft limit, which Go raises to the hard limit).
	DefaultMaxRelays = 1024

	// transferFraction limits zone transfers in flight, which are counted separately
	// because they take long, as a fraction of MaxRelays.
	transferFraction = 4

	// DefaultMaxConns limits open TCP connections. When it is reached, a new one
	// evicts the least recently used.
	DefaultMaxConns = 4096

	// DefaultTCPIdle is the idle timeout of a TCP connection without a query in
	// flight (RFC 7766 §6.2.3: on the order of seconds).
	DefaultTCPIdle = 20 * time.Second
)

// Origin is where a query to a virtual address came from and where it was sent.
type Origin struct {
	// Addr is the original destination: the nameserver address the client used.
	Addr netip.AddrPort
	// Workload is the path of the client's cgroup below the hierarchy's root, or ""
	// if it is not known.
	Workload string
	// Removed reports that the cgroup was removed before its path was known.
	// Workload is then the path of an ancestor with "(removed)" below it.
	Removed bool

	// Cgroup and Netns identify the client's cgroup and network namespace for the function
	// [Config.Local]. Cgroup is also the owner of queries to [Config.Nameserver].
	Cgroup uint64
	Netns  uint32

	// Virtual is the address that the client's query arrived at, which stands for Addr.
	Virtual netip.Addr
}

// Exchanger sends one query to a recursive resolver and returns its reply. The
// query is a complete message with ID 0 and its own OPT record. The reply has the
// query's question, and the caller owns it. If an error has a method
// EDE() wire.EDE, clients get that as the reason. Exchange is called concurrently.
// It returns at the time until at the latest, or when ctx is cancelled. until is not
// a deadline of ctx because a context with a deadline costs more than the rest of a
// miss.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte, until time.Time) (reply []byte, err error)
}

// Patient is an [Exchanger] with a time limit of its own, in place of [Config.Timeout].
type Patient interface {
	// Timeout returns how long an exchange may take.
	Timeout() time.Duration
}

// timeoutMargin is the time in which the error of a [Patient] upstream still arrives.
const timeoutMargin = 300 * time.Millisecond

// Config configures a [Forwarder]. The zero value of a limit means its default.
type Config struct {
	// Upstream receives cache misses, unless Route returns another one. Required.
	Upstream Exchanger

	// Route decides what is done with each query. Nil: all go to Upstream.
	// [Forwarder.SetRouter] changes it.
	Route Router

	// Nameserver sends queries to their original destination, for the action
	// [Plain]. Nil: such queries are refused.
	Nameserver Nameserver

	// Local returns a client for the local resolver that is the original destination of a
	// query, for the action [Local]. Nil: such queries are refused.
	Local func(Origin) Nameserver

	// Cache stores answers. Nil: every query goes upstream. The caller closes it.
	Cache *cache.Cache

	// Shared is asked after a miss of Cache, and receives what upstreams answer. It needs Cache,
	// and upstreams that implement [Identified]. Nil: there is none. The caller runs it.
	Shared *shared.Cache

	// Origins returns the origin of a query from the local address it arrived at.
	// It reports false for an address that no client was redirected to; such
	// queries are dropped. Nil: every query is accepted, without an origin. It is
	// called once per query, concurrently, and must not block.
	Origins func(local netip.Addr) (Origin, bool)

	// Observe, if set, is called for every query that gets a reply, concurrently and before the
	// reply is sent. It must not block and must not keep [Event.Name].
	Observe func(Event)

	// Dropped, if set, is called like Observe for every query that gets no reply, and for every
	// reply that could not be sent. [Event].Drop is the reason.
	Dropped func(Event)

	// Tap, if set, receives every query that gets a reply, the replies, and what is sent to
	// original destinations. Upstreams have a tap of their own.
	Tap tap.Func

	// Repeats, if set, makes the forwarder offer cached answers to a [Repeater], see
	// [Forwarder.RunRepeats]. It returns the class of the clients that ask at an address: the
	// repeater may give them the same answers. Class 0: it gives them none. It must not block.
	Repeats func(local netip.Addr) (class uint32)

	// Timeout limits the time from a query to its reply, unless the upstream is [Patient].
	Timeout time.Duration

	// StaleAfter is how long a client waits for the upstream if the cache has an
	// expired answer (see [cache.Config.MaxStale]).
	StaleAfter time.Duration

	// One workload, or client address where the workload is not known, may hold as
	// much of each of the first three as is left free (see [sotto/forwarder/admission.Shares]).
	MaxMisses  int           // upstream queries in flight
	MaxWaiters int           // client queries waiting for them
	MaxRelays  int           // queries in flight to original destinations; in addition a quarter as many zone transfers
	MaxConns   int           // open TCP connections; at most three quarters of the process's limit of open files
	TCPIdle    time.Duration // how long a TCP client may be idle, take to send one message, or read nothing

	// Log receives what operators should know. Nil: nothing is logged.
	Log *slog.Logger
}

// validated returns cfg with its defaults filled in, or an error.
func (cfg Config) validated() (Config, error) {
	if cfg.Upstream == nil {
		return cfg, errors.New("make a forwarder: Config.Upstream is nil")
	}
	if cfg.Shared != nil && cfg.Cache == nil {
		return cfg, errors.New("make a forwarder: Config.Shared without Config.Cache")
	}
	limits := []struct {
		name string
		v    *int
		def  int
	}{
		{"MaxMisses", &cfg.MaxMisses, DefaultMaxMisses},
		{"MaxWaiters", &cfg.MaxWaiters, DefaultMaxWaiters},
		{"MaxRelays", &cfg.MaxRelays, DefaultMaxRelays},
		{"MaxConns", &cfg.MaxConns, DefaultMaxConns},
	}
	for _, l := range limits {
		if *l.v < 0 {
			return cfg, fmt.Errorf("make a forwarder: Config.%s is %d: want 0 (the default) or more", l.name, *l.v)
		}
		if *l.v == 0 {
			*l.v = l.def
		}
	}
	times := []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.Timeout, DefaultTimeout}, {&cfg.StaleAfter, DefaultStaleAfter}, {&cfg.TCPIdle, DefaultTCPIdle}}
	for _, t := range times {
		if *t.v < 0 {
			return cfg, errors.New("make a forwarder: a negative time")
		}
		if *t.v == 0 {
			*t.v = t.def
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}
