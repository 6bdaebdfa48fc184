// SPDX-License-Identifier: Apache-2.0

// Package demo implements `sotto demo`: it seals a command in an isolated network and
// proves the result with packet captures.
//
// It builds a host and a LAN from network namespaces without external connectivity
// (internal/netlab), starts plain nameservers and a DNS over TLS server on the LAN
// (internal/dnstest), sends the same queries unsealed and through `sotto exec`,
// captures the link both times (internal/capture), and prints both captures side by
// side with the result. The sealed run executes the real program as a user would;
// nothing is simulated. The demo needs root but no internet access.
package demo
