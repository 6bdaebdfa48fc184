// SPDX-License-Identifier: Apache-2.0

// Package status describes a running Sotto: what it seals, its upstreams, its cache and what it
// has answered.
//
// [Status] is what `sotto status --json` prints, and what GET /v1/status of the control socket
// returns. docs/status.schema.json describes it. [Status.Text] is the form for people. The
// package does no I/O.
package status
