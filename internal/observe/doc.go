// SPDX-License-Identifier: Apache-2.0

// Package observe counts the queries of a running Sotto, and shows them to those who trace
// them.
//
// A [Hub] receives one event per reply from the forwarder, and one for each query that gets none
// or whose reply cannot be sent. It adds to counters, which status and metrics read, and offers
// the event to each [Tracer]. During a trace it also receives what the kernel half refuses and
// drops, which the kernel counts. A tracer that is not read loses events and counts them; it never
// delays a query.
//
// [Recent] keeps the last warnings and errors of the log.
package observe
