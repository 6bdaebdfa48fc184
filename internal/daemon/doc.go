// SPDX-License-Identifier: Apache-2.0

// Package daemon connects the two halves of Sotto, packages intercept and forwarder, and
// runs them as one process.
//
// [Run] seals the host or some cgroups until the process is stopped or another process takes
// over, [Serve] answers queries without a seal, and [Exec] seals one command. They own
// everything that belongs to a running process: signals, the control socket, reloads, takeovers
// (package takeover), the cache file, the service manager's notifications, and the
// privileges, which they drop once everything is set up. Only cmd/sotto may call this package.
//
// A seal is an intercept instance together with the resolver that answers the queries
// that its hooks redirect. The instance is attached last and detached first. After an error
// the hooks stay in place (fail closed), unless on-exit is open.
package daemon
