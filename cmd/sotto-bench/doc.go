// SPDX-License-Identifier: Apache-2.0

// Command sotto-bench contains the tools that scripts/bench.sh needs, besides dnsperf, to
// compare `sotto serve` with other forwarders:
//
//	sotto-bench cert       create a throwaway CA and a server certificate
//	sotto-bench upstream   serve DNS over TLS with a delay
//	sotto-bench latency    measure latency percentiles at a fixed rate
//	sotto-bench hits       measure cached answers in a closed loop, and the CPU time of the whole machine
//	sotto-bench idle       measure the first query after a pause
//	sotto-bench report     write tables, verdicts and a plot from raw results
//
// It is not part of Sotto. The measuring code shares no code with the forwarder that it
// measures. Do not expose its server to an untrusted network.
package main
