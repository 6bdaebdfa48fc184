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
	// Stopping is set while a process that was stopped answers for the time of the setting drain.
	Stopping bool `json:"stopping,omitempty"`

	Seal   *Seal   `json:"seal,omitempty"` // only of `sotto run`
	Rules  int     `json:"rules"`
	Groups []Group `json:"groups"`
	Cache  *Cache  `json:"cache,omitempty"` // if there is one
	// SharedCache is the cache that several instances share, if there is one.
	SharedCache *SharedCache             `json:"shared_cache,omitempty"`
	Queries     Queries                  `json:"queries"`
	Load        Load                     `json:"load"`
	Outputs     []Output                 `json:"outputs,omitempty"` // query log and dnstap
	Workloads   []observe.WorkloadCounts `json:"workloads"`         // those with the most queries first
	// Messages are the latest warnings and errors of the log, the latest first.
	Messages []observe.Message `json:"messages"`
}

// State returns the state of the process in a word: ready, starting or stopping.
func (s *Status) State() string {
	switch {
	case s.Ready:
		return "ready"
	case s.Stopping:
		return "stopping"
	}
	return "starting"
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
	Cgroups        []string          `json:"cgroups"`           // directories
	Missing        []string          `json:"missing,omitempty"` // those of them that do not exist now
	Exclude        []string          `json:"exclude"`           // directories
	Prefix4        netip.Prefix      `json:"prefix4"`
	Prefix6        netip.Prefix      `json:"prefix6"`
	Guard          string            `json:"guard"`           // drop, count or off
	LocalResolvers string            `json:"local_resolvers"` // keep or redirect
	SlotsUsed      int               `json:"slots_used"`      // virtual addresses of each family, at most five seconds ago
	SlotsTotal     int               `json:"slots_total"`
	Counters       map[string]uint64 `json:"counters"` // of the kernel, by reason

	KernelAnswers KernelAnswers `json:"kernel_answers"`
}

// KernelAnswers are the cached queries that the kernel answers.
type KernelAnswers struct {
	State  string `json:"state"`            // on or off
	Reason string `json:"reason,omitempty"` // why it is off

	Entries    int               `json:"entries"`     // answers that the kernel may give
	MaxEntries int               `json:"max_entries"` // most that there can be
	Bytes      int64             `json:"bytes"`       // memory, which is constant
	Evictions  uint64            `json:"evictions"`   // answers that were replaced by others
	Verdicts   map[string]uint64 `json:"verdicts"`    // queries by what was done with them, since the seal was made
}

// Group is an upstream group.
type Group struct {
	Name    string   `json:"name"`
	Policy  string   `json:"policy"`
	Servers []Server `json:"servers"`
	// Nameservers are those that clients asked, if the group's upstream is "original".
	Nameservers []Nameserver `json:"nameservers,omitempty"`

	DNSSEC *Validation `json:"dnssec,omitempty"` // nil: answers are not validated
}

// Validation counts the answers of an upstream group by the result of their validation.
type Validation struct {
	Secure      uint64            `json:"secure"`
	Insecure    uint64            `json:"insecure"`
	Bogus       map[string]uint64 `json:"bogus"`       // by reason
	Failed      uint64            `json:"failed"`      // the upstream failed
	Unvalidated uint64            `json:"unvalidated"` // CD=1, error codes and others that are not validated
	Synthesized uint64            `json:"synthesized"` // answered from a denial that was known
	Lookups     uint64            `json:"lookups"`     // queries for DS and DNSKEY records
	Signatures  uint64            `json:"signatures"`  // verified
}

// Nameserver is a nameserver that clients asked, and what it offers.
type Nameserver struct {
	Nameserver   netip.AddrPort `json:"nameserver"`
	State        string         `json:"state"`                   // unknown, discovering, encrypted or fallback
	Found        string         `json:"found,omitempty"`         // how its server was found: known, tls or ddr
	Server       string         `json:"server,omitempty"`        // its server: address and name
	Queries      uint64         `json:"queries"`                 // that the cache did not answer
	Fallbacks    uint64         `json:"fallbacks"`               // of those, the ones that went to the fallback
	Error        string         `json:"error,omitempty"`         // why its server is not used
	RetrySeconds float64        `json:"retry_seconds,omitempty"` // until it is tried again
}

// Server is one upstream server.
type Server struct {
	Server   string `json:"server"` // address and name
	State    string `json:"state"`  // up, silent, or down
	Protocol string `json:"protocol,omitempty"`
	// KeyExchange is the group of the latest connection's key exchange.
	KeyExchange string `json:"key_exchange,omitempty"`
	// Addresses are those that the server's name resolves to; none if it is known by address.
	Addresses []string `json:"addresses,omitempty"`
	// Using is the protocol that an auto server uses now; "" for others.
	Using      string    `json:"using,omitempty"`
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

// SharedCache is the state of the cache that several instances share.
type SharedCache struct {
	Address   string `json:"address"` // of the server
	State     string `json:"state"`   // up, or down: queries do not wait for it
	LastError string `json:"last_error,omitempty"`
	Found     uint64 `json:"found"` // lookups that found an answer
	Misses    uint64 `json:"misses"`
	Timeouts  uint64 `json:"timeouts"`
	Errors    uint64 `json:"errors"`
	Skipped   uint64 `json:"skipped"` // lookups that were not made: the server was down
	Busy      uint64 `json:"busy"`    // lookups that were not made: too many waited
	Invalid   uint64 `json:"invalid"` // values that were not used
	Written   uint64 `json:"written"` // answers stored
	Dropped   uint64 `json:"dropped"` // answers not stored: the server was down, or too many waited
}

// Queries counts replies.
type Queries struct {
	Total  uint64            `json:"total"`
	TCP    uint64            `json:"tcp"`
	Source map[string]uint64 `json:"source"` // by where the reply came from
	Rcode  map[string]uint64 `json:"rcode"`
	// Unanswered are queries that reached the listener and got no reply, and replies that could not
	// be sent, by reason. They are not part of Total, except for the replies.
	Unanswered map[string]uint64 `json:"unanswered,omitempty"`
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
