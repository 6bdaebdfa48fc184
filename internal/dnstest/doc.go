// SPDX-License-Identifier: Apache-2.0

// Package dnstest is a small DNS server with a throwaway certificate authority: the
// upstream of `sotto demo` and of the tests.
//
// A [Server] answers over TLS (RFC 7858), TCP and UDP on sockets that the
// caller made, possibly in another network namespace. It is pipelined, sends
// replies in whatever order they become ready, and counts what it saw, so that
// a test can assert what really reached it. A [Zone] answers from a wildcard
// zone whose names say what the answer looks like; the handlers in faults.go
// misbehave on purpose.
//
// Its reading of messages shares no code with sotto/forwarder/wire, which it
// tests. It needs no kernel feature and no privilege. It trusts its clients:
// never give it to a network that is not your own.
package dnstest
