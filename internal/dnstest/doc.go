// SPDX-License-Identifier: Apache-2.0

// Package dnstest provides a fake DNS server and a certificate authority for it: the
// upstream of `sotto demo` and of the tests.
//
// A [Server] answers over TLS (RFC 7858), TCP and UDP on sockets that the caller
// opened, possibly in another network namespace. It supports pipelining, sends replies
// out of order as they become ready, and counts queries, connections and reads, so that
// tests can check what reached it. A [Zone] answers from a wildcard zone in which a
// name determines the form of its answer. The handlers in faults.go misbehave
// deliberately.
//
// The message parser shares no code with sotto/forwarder/wire, which it helps to test.
// The package needs no kernel feature and no privileges. It trusts its clients: never
// expose it to an untrusted network.
package dnstest
