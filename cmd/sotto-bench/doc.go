// SPDX-License-Identifier: Apache-2.0

// Command bench is what scripts/bench.sh needs besides dnsperf to compare `sotto
// serve` with its peers:
//
//	bench cert       a throwaway authority and a certificate that it signed
//	bench upstream   a DNS over TLS server that is far away
//	bench latency    percentiles at a fixed rate
//	bench idle       the first query after a pause
//	bench report     the raw results as tables, verdicts and a plot
//
// It is no part of Sotto, and what it measures with shares no code with what is
// measured. Give it to no network that is not your own.
package main
