// SPDX-License-Identifier: Apache-2.0

// Package benchreport makes of the raw results of scripts/bench.sh what a reader sees:
// tables with ratios, verdicts on what Sotto sets out to reach, and a plot. It is
// pure: text in, text out.
package benchreport
