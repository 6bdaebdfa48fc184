// SPDX-License-Identifier: Apache-2.0

// Package proxy opens connections over TCP through a proxy: SOCKS5 (RFC 1928, RFC 1929) or
// HTTP with the method CONNECT (RFC 9110 §9.3.6). It imports nothing of Sotto.
//
// The proxy has an IP address, because resolving a name would need plain DNS. It receives the
// address of the server, never a name. What it carries is encrypted for the server, so a
// proxy needs no trust beyond that it sees the address.
package proxy
