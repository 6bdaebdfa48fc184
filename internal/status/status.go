// SPDX-License-Identifier: Apache-2.0

package status

import (
	"net/netip"
	"strings"
	"time"

	"sotto/internal/durations"
	"sotto/internal/observe"
)

// Status describes a running Sotto. Counters count since the start of the process, except those
// of the kernel, which outlive it.
type Status struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	PID     int       `json:"pid"`
	// Ready is set when queries are answered and, under `sotto run`, redirected.
	Ready bool `json:"ready"`

	Seal      *Seal                    `json:"seal,omitempty"` // only of `sotto run`
	Rules     int                      `json:"rules"`
	Groups    []Group                  `json:"groups"`
	Cache     *Cache                   `json:"cache,omitempty"` // if there is one
	Queries   Queries                  `json:"queries"`
	Load      Load                     `json:"load"`
	Outputs   []Output                 `json:"outputs,omitempty"` // query log and dnstap
	Workloads []observe.WorkloadCounts `json:"workloads"`         // those with the most queries first
	// Messages are the latest warnings and errors of the log, the latest first.
	Messages []observe.Message `json:"messages"`
}

// IsGuard reports whether a counter of the kernel counts packets that the guard stopped, or with
// guard = "count" would have stopped.
func IsGuard(counter string) bool {
	switch counter {
	case "escaped", "outside", "foreign":
		return true
	}
	return strings.HasPrefix(counter, "stopped_")
}

// Seal is what the kernel redirects.
type Seal struct {
	Cgroups        []string          `json:"cgroups"` // directories
	Exclude        []string          `json:"exclude"` // directories
	Prefix4        netip.Prefix      `json:"prefix4"`
	Prefix6        netip.Prefix      `json:"prefix6"`
	Guard          string            `json:"guard"`           // drop, count or off
	LocalResolvers string            `json:"local_resolvers"` // keep or redirect
	SlotsUsed      int               `json:"slots_used"`      // virtual addresses of each family, at most five seconds ago
	SlotsTotal     int               `json:"slots_total"`
	Counters       map[string]uint64 `json:"counters"` // of the kernel, by reason
}

// Group is an upstream group.
type Group struct {
	Name    string   `json:"name"`
	Policy  string   `json:"policy"`
	Servers []Server `json:"servers"`
}

// Server is one upstream server.
type Server struct {
	Server     string    `json:"server"` // address and name
	State      string    `json:"state"`  // up, silent, or down
	Protocol   string    `json:"protocol,omitempty"`
	CertExpiry time.Time `json:"certificate_expiry,omitzero"`
	// Unauthenticated is why the server is used without being authenticated.
	Unauthenticated string  `json:"unauthenticated,omitempty"`
	Connections     int     `json:"connections"`
	InFlight        int     `json:"in_flight"`
	Queries         uint64  `json:"queries"`
	Failed          uint64  `json:"failed"`
	Dials           uint64  `json:"dials"`
	DialErrors      uint64  `json:"dial_errors"`
	Resumed         uint64  `json:"resumed"`
	UsualMillis     float64 `json:"usual_milliseconds"` // usual time of a reply; 0: unknown
	P95Millis       float64 `json:"p95_milliseconds"`
	RetrySeconds    float64 `json:"retry_seconds,omitempty"` // until a server that is down is tried again
	LastError       string  `json:"last_error,omitempty"`    // "" if it has been healthy since
	// Errors counts failed queries and connections by reason; a connection counts once.
	Errors map[string]uint64 `json:"errors,omitempty"`

	// RoundTrips and Opened are the times of all replies, and those of opening connections;
	// nil if they are not known. They are for metrics.
	RoundTrips *durations.Counts `json:"-"`
	Opened     *durations.Counts `json:"-"`
}

// Cache is the state of the cache.
type Cache struct {
	Entries    int    `json:"entries"`
	Bytes      int64  `json:"bytes"`
	MaxBytes   int64  `json:"max_bytes"`
	Hits       uint64 `json:"hits"`
	Stale      uint64 `json:"stale"`
	Misses     uint64 `json:"misses"`
	Prefetches uint64 `json:"prefetches"`
	Evictions  uint64 `json:"evictions"`
}

// Queries counts replies.
type Queries struct {
	Total  uint64            `json:"total"`
	TCP    uint64            `json:"tcp"`
	Source map[string]uint64 `json:"source"` // by where the reply came from
	Rcode  map[string]uint64 `json:"rcode"`
	// CacheMicros and UpstreamMicros are the times that half of, and 99 in 100, replies from the
	// cache and from upstreams did not exceed, within a tenth.
	CacheP50Micros    int64 `json:"cache_p50_microseconds"`
	CacheP99Micros    int64 `json:"cache_p99_microseconds"`
	UpstreamP50Micros int64 `json:"upstream_p50_microseconds"`
	UpstreamP99Micros int64 `json:"upstream_p99_microseconds"`
}

// Load is the work in progress.
type Load struct {
	Misses     int    `json:"misses"`     // upstream queries in flight
	Waiting    int    `json:"waiting"`    // client queries that wait for them
	TCP        int    `json:"tcp"`        // open client connections
	Overloaded uint64 `json:"overloaded"` // queries refused: all capacity was in use
	OverShare  uint64 `json:"over_share"` // queries refused: the workload had used its share
}

// Output is where queries are recorded.
type Output struct {
	Kind    string `json:"kind"`    // "query log" or "dnstap"
	Target  string `json:"target"`  // path of the file or socket, or "stderr"
	Written uint64 `json:"written"` // queries, for dnstap messages
	Lost    uint64 `json:"lost"`    // those that could not be written in time
}

// HitRate returns the share of the lookups in the cache that found an answer, from 0 to 1; 0
// before the first one.
func (c *Cache) HitRate() float64 {
	all := c.Hits + c.Stale + c.Misses
	if all == 0 {
		return 0
	}
	return float64(c.Hits+c.Stale) / float64(all)
}
