// SPDX-License-Identifier: Apache-2.0

// Package historytest is a property test of instances. It executes random histories: steps
// of several processes that open, connect, pass and close sockets, fork and move between
// cgroups, while instances start, stop, crash and replace each other.
//
// A model in plain Go predicts what may happen. After each step the test checks that
//
//   - no packet leaves for a virtual address, and none for port 53 from a sealed cgroup,
//   - no query is attributed to a workload that did not send it,
//   - no client receives an answer to another query,
//   - every query that must be answered is answered,
//   - all slots are free after all sockets are closed.
//
// The clients are those of package clienttest, with additional commands ([Command]). The
// instances are those of a [Subject]. It is for tests only.
package historytest
