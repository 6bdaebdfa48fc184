// SPDX-License-Identifier: Apache-2.0

// Package metrics serves the figures of a running Sotto to Prometheus.
//
// A [Collector] reads them when it is scraped, from the sources that `sotto status` reads: the
// package counts nothing itself, and costs nothing between two scrapes. Durations are classic and
// native histograms at once; the scraper chooses. [Names] lists the metrics, from which the
// dashboard and the alert rules in deploy are checked.
package metrics
