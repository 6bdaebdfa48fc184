// SPDX-License-Identifier: Apache-2.0

// Package benchreport converts the raw results of scripts/bench.sh to a report: tables,
// verdicts on Sotto's performance goals, and a plot. It performs no I/O besides the
// reader that it is given.
//
// A peer is a forwarder that takes part in the comparison, Sotto included.
package benchreport
