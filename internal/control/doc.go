// SPDX-License-Identifier: Apache-2.0

// Package control is how a running Sotto is told things: HTTP over a socket in
// the file system, whose mode says who may.
//
// [Listen] owns the socket's path: it takes over what a dead process left there,
// refuses to displace a living one, and takes the socket away in the end. What
// is asked for is the caller's, as functions in [Handlers]; the asking sides are
// [Reload], and [Replace], whose connection becomes what package handover speaks on.
// There is no authentication but the file system's: the socket is made
// with mode 0600, so that only its owner and root may ask.
package control
