// SPDX-License-Identifier: Apache-2.0

// Package doh3 is the transport of DNS over HTTPS (RFC 8484) with HTTP/3 (RFC 9114). It is
// used by sotto/forwarder/upstream, and consists of parts that are shared with other
// transports: sotto/forwarder/upstream/quicdial opens authenticated connections, httpdns
// makes requests of queries, and streams selects and replaces connections.
package doh3
