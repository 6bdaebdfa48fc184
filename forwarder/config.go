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
)

// Defaults of [Config]'s limits.
const (
	// DefaultTimeout leaves a margin to glibc's and musl's five seconds, after
	// which they ask somebody else or give up.
	DefaultTimeout = 3800 * time.Millisecond

	// DefaultStaleAfter is RFC 8767 §5's client response timer.
	DefaultStaleAfter = 1800 * time.Millisecond

	// DefaultMaxMisses bounds the upstream queries in flight. With the few
	// kilobytes that each takes, a hung upstream costs tens of megabytes.
	DefaultMaxMisses = 8192

	// DefaultMaxWaiters bounds the clients that wait for those queries.
	DefaultMaxWaiters = 65536

	// DefaultMaxRelays bounds the plain queries on their way to the nameservers
	// that were meant. Each has a socket; most systems allow a process 1024 open
	// files unless told otherwise.
	DefaultMaxRelays = 1024

	// transferShare is the part of those that may be zone transfers besides: they
	// last.
	transferShare = 4

	// DefaultMaxConns bounds the TCP connections held; the one idle longest
	// makes place for a new one.
	DefaultMaxConns = 4096

	// DefaultTCPIdle is how long a TCP connection without a query in flight is
	// kept (RFC 7766 §6.2.3: in the order of seconds).
	DefaultTCPIdle = 20 * time.Second
)

// Origin is what a client meant when it sent a query to a virtual address.
type Origin struct {
	// Addr is the nameserver that the client asked, as it knows it.
	Addr netip.AddrPort
	// Workload names who asked: the path of its cgroup below the hierarchy's
	// root, or "" where that is not known.
	Workload string
	// Removed is set where that cgroup was removed before its path was known:
	// Workload is then the path of an ancestor, with "(removed)" below it.
	Removed bool
}

// Event is one answered query, for logs and traces.
type Event struct {
	Origin   Origin         // zero where the listener has no Origins
	Client   netip.AddrPort // the sender, as the listener saw it
	TCP      bool
	Name     string // presentation form
	Type     uint16
	Class    uint16
	Rcode    uint16
	Cached   bool
	Duration time.Duration // from the query's arrival to its reply's hand-over
	Err      error         // why an upstream failed, nil otherwise
}

// Exchanger carries one query to a recursive resolver and returns its reply.
// The query is whole, with ID 0 and an OPT record of its own; the reply has the
// query's question, and becomes the caller's. An error that has a method
// EDE() wire.EDE tells clients why there is no answer. It is called concurrently.
// It returns by the time until, which is no deadline of ctx because a context with
// one costs more than the rest of a miss, and ends when ctx does.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte, until time.Time) (reply []byte, err error)
}

// Config is what a [Forwarder] is made of. The zero value of a limit means its
// default.
type Config struct {
	// Upstream carries cache misses, unless Route names another one. Required.
	Upstream Exchanger

	// Route decides about each query; nil: all are forwarded to Upstream.
	// [Forwarder.SetRouter] changes it.
	Route Router

	// Nameserver carries queries to the nameserver that was meant, for routes
	// that say [Plain]. Nil: such queries fail.
	Nameserver Nameserver

	// Cache keeps answers; nil: every query is asked upstream. The caller
	// closes it.
	Cache *cache.Cache

	// Origins tells who asked, and whom, from the local address of a query. A
	// query to an address that it does not know is dropped: nobody was sent
	// there. Nil: every query is taken (a plain forwarder). It is called once
	// a query, concurrently, and must not block.
	Origins func(local netip.Addr) (Origin, bool)

	// Observe, if set, is told of every answered query. It is called
	// concurrently on the query's path and must not block.
	Observe func(Event)

	// Timeout bounds the time from a query to its reply.
	Timeout time.Duration

	// StaleAfter is how long a client waits for the upstream while the cache has
	// an expired answer, if its Config says that it keeps some.
	StaleAfter time.Duration

	// Of each of the first three, one workload (or where none is known, one client
	// address) gets as much as is left free, and no more.
	MaxMisses  int           // upstream queries in flight
	MaxWaiters int           // clients waiting for them
	MaxRelays  int           // queries in flight to nameservers that were meant; a quarter as many zone transfers
	MaxConns   int           // TCP connections held; at most three quarters of the open files allowed
	TCPIdle    time.Duration // how long a TCP client may be idle, send one message, or read nothing

	// Log gets what an operator has to know. Nil: nothing is logged.
	Log *slog.Logger
}

// validated returns cfg with its defaults filled in, or what is wrong with it.
func (cfg Config) validated() (Config, error) {
	if cfg.Upstream == nil {
		return cfg, errors.New("make a forwarder: Config.Upstream is nil")
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
