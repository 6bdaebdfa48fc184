// SPDX-License-Identifier: Apache-2.0

// Package doh is the transport of DNS over HTTPS (RFC 8484) with HTTP/2. It is used by
// sotto/forwarder/upstream, and consists of parts that are shared with other transports:
// sotto/forwarder/upstream/secure opens authenticated connections, httpdns makes requests
// of queries, and streams selects and replaces connections.
//
// A server that does not select HTTP/2 (ALPN "h2") is refused. Each query is a request in a
// stream of its own; a stream that the server resets does not disturb the others.
package doh
