// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Metric is one metric and its labels.
type Metric struct {
	Name   string
	Type   Type
	Help   string
	Labels []string

	desc *prometheus.Desc
}

// Type is the type of a metric.
type Type uint8

const (
	Counter Type = iota + 1
	Gauge
	Histogram
)

// metrics are all metrics of the [Collector], in the order of their definition.
var metrics []*Metric

func define(t Type, name, help string, labels ...string) *Metric {
	m := &Metric{Name: name, Type: t, Help: help, Labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
	metrics = append(metrics, m)
	return m
}

// List returns all metrics of Sotto. Those of the Go runtime and of the process are not included.
func List() []Metric {
	var out []Metric
	for _, m := range metrics {
		out = append(out, *m)
	}
	return out
}

// The process.
var (
	buildInfo = define(Gauge, "sotto_build_info", "Version of Sotto and of the Go runtime; always 1.", "version", "goversion")
	ready     = define(Gauge, "sotto_ready", "1 if queries are answered and, under a seal, redirected.")
	rules     = define(Gauge, "sotto_rules", "Rules in the configuration.")
)

// Queries of clients.
var (
	queries = define(Counter, "sotto_queries_total",
		"Answered queries by source of the answer (sotto, rule, cache, stale, shared, upstream, nameserver, local) and rcode.", "source", "rcode")
	tcpQueries    = define(Counter, "sotto_tcp_queries_total", "Answered queries that arrived over TCP.")
	queryDuration = define(Histogram, "sotto_query_duration_seconds",
		"Time from the arrival of a query until its answer was ready, by source of the answer.", "source")
	refused = define(Counter, "sotto_refused_queries_total",
		"Queries refused over capacity (overloaded), or over the share of their workload (over_share).", "reason")
	unanswered  = define(Counter, "sotto_unanswered_queries_total", "Queries that reached Sotto and got no reply, and replies that could not be sent, by reason.", "reason")
	inFlight    = define(Gauge, "sotto_queries_in_flight", "Questions that wait for an upstream now.")
	waiting     = define(Gauge, "sotto_queries_waiting", "Queries of clients that wait for an upstream now.")
	connections = define(Gauge, "sotto_client_connections", "Open TCP connections of clients.")
)

// Workloads: the MaxWorkloads busiest; all others together are "other".
var (
	workloadQueries  = define(Counter, "sotto_workload_queries_total", "Answered queries by workload.", "workload")
	workloadFailed   = define(Counter, "sotto_workload_failed_queries_total", "Queries answered with SERVFAIL or an error of Sotto, by workload.", "workload")
	workloadCached   = define(Counter, "sotto_workload_cached_queries_total", "Queries answered from the cache, by workload.", "workload")
	workloadDuration = define(Counter, "sotto_workload_query_seconds_total", "Sum of the times from query to answer, by workload.", "workload")

	// The name is not a label of the counters: it is found after the first query and can change,
	// and a counter with another label is another series, whose rate starts at zero.
	workloadInfo = define(Gauge, "sotto_workload_info",
		"Name that people know for a workload (its path where it is unknown), and its kind (unit, docker, podman, pod, …; or empty); always 1.",
		"workload", "name", "kind")
)

// The cache.
var (
	cacheEntries    = define(Gauge, "sotto_cache_entries", "Answers in the cache, expired ones included.")
	cacheSize       = define(Gauge, "sotto_cache_size_bytes", "Memory that the cache uses.")
	cacheLimit      = define(Gauge, "sotto_cache_limit_bytes", "Memory that the cache may use.")
	cacheLookups    = define(Counter, "sotto_cache_lookups_total", "Lookups in the cache by result (hit, stale, miss).", "result")
	cachePrefetches = define(Counter, "sotto_cache_prefetches_total", "Answers refreshed before they expired.")
	cacheEvictions  = define(Counter, "sotto_cache_evictions_total", "Answers removed because the cache was full.")
)

// The cache that several instances share (shared-cache).
var (
	sharedUp      = define(Gauge, "sotto_shared_cache_up", "1 if the server of the shared cache answers, 0 if queries do not wait for it.")
	sharedLookups = define(Counter, "sotto_shared_cache_lookups_total",
		"Lookups in the shared cache by result (found, miss, timeout, error, skipped, busy, invalid).", "result")
	sharedWrites = define(Counter, "sotto_shared_cache_writes_total", "Answers for the shared cache by result (written, dropped).", "result")
)

// Upstream servers.
var (
	upstreamUp = define(Gauge, "sotto_upstream_up", "1 if the server works, 0 if it failed or is silent.", "group", "server")
	upstreamUn = define(Gauge, "sotto_upstream_unauthenticated",
		"1 if the server is used although it could not be authenticated (profile opportunistic).", "group", "server")
	upstreamQueries  = define(Counter, "sotto_upstream_queries_total", "Queries sent to the server.", "group", "server")
	upstreamFailed   = define(Counter, "sotto_upstream_failed_queries_total", "Queries to the server that got no reply.", "group", "server")
	upstreamInFlight = define(Gauge, "sotto_upstream_queries_in_flight", "Queries that wait for a reply of the server now.", "group", "server")
	upstreamErrors   = define(Counter, "sotto_upstream_errors_total",
		"Failed queries and connections by reason; a failed connection counts once, whatever number of queries waited for it.", "group", "server", "reason")
	upstreamRoundTrip    = define(Histogram, "sotto_upstream_round_trip_seconds", "Time from a query to the reply of the server.", "group", "server")
	upstreamConns        = define(Gauge, "sotto_upstream_connections", "Open connections to the server.", "group", "server")
	upstreamDials        = define(Counter, "sotto_upstream_connection_attempts_total", "Attempts to open a connection to the server.", "group", "server")
	upstreamDialFailures = define(Counter, "sotto_upstream_connection_failures_total", "Attempts to open a connection that failed.", "group", "server")
	upstreamOpened       = define(Histogram, "sotto_upstream_handshake_duration_seconds",
		"Time to open a connection to the server, TCP and TLS handshakes included.", "group", "server")
	upstreamResumed = define(Counter, "sotto_upstream_resumed_handshakes_total", "TLS handshakes that resumed a session.", "group", "server")
	upstreamExpiry  = define(Gauge, "sotto_upstream_certificate_expiry_timestamp_seconds",
		"When the certificate of the server's latest connection expires, in Unix time.", "group", "server")
)

// The seal (`sotto run`).
var (
	sealedCgroups        = define(Gauge, "sotto_sealed_cgroups", "Cgroups that are sealed, each with all cgroups below it.")
	slotsUsed            = define(Gauge, "sotto_slots_used", "Virtual addresses in use, of each family.")
	slotsLimit           = define(Gauge, "sotto_slots_limit", "Virtual addresses that there are, of each family.")
	kernelAnswersOn      = define(Gauge, "sotto_kernel_answers_enabled", "1 if the kernel answers cached queries.")
	kernelAnswersEntries = define(Gauge, "sotto_kernel_answers_entries", "Answers that the kernel may give.")
	kernelAnswersLimit   = define(Gauge, "sotto_kernel_answers_limit", "Most answers that the kernel may have.")
	kernelAnswersQueries = define(Counter, "sotto_kernel_answers_queries_total",
		"Queries over UDP that the kernel answered, or why it left them to the forwarder.", "verdict")
	guardPackets = define(Counter, "sotto_guard_packets_total",
		"Packets that the guard stopped, or with guard = \"count\" would have stopped, by reason.", "reason")
	hookEvents = define(Counter, "sotto_hook_events_total", "Other events in the kernel: redirected queries, slots, refusals.", "event")
)
