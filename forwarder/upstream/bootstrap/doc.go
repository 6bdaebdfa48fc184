// SPDX-License-Identifier: Apache-2.0

// Package bootstrap finds the addresses of upstream servers that are known by name. It is
// used by sotto/forwarder/upstream, which gives it a function that asks an encrypted server
// whose address is known: a name is never resolved in plain.
//
// A [Name] is resolved when it is first needed, and in the background when its TTL has
// passed. While that fails, the last known addresses stay in use. A query never waits for a
// refresh; it waits for the first resolution, at most until its own deadline, as it waits
// for a connection.
//
// The parsing of replies (parse.go) is pure.
package bootstrap
