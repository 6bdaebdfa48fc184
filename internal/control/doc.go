// SPDX-License-Identifier: Apache-2.0

// Package control is the control socket of a running Sotto: HTTP over a Unix socket in the
// file system.
//
// [Listen] owns the socket's path: it replaces the socket that a dead process left there,
// fails if a running process listens on it, and removes it when it closes. [Handlers] carry
// out the requests. The client functions are [Reload], and [Replace], whose connection
// carries the messages of package takeover.
//
// File permissions decide who can connect: the owner and root, or with a group also its members.
// For each request, the user ID of the peer decides what it may do: root and the process's own
// user everything, others only GET.
package control
