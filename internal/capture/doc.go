// SPDX-License-Identifier: Apache-2.0

// Package capture records the packets on an interface through a packet socket,
// without libpcap, and parses what the demo and the tests check: addresses, ports,
// the question of a plain DNS message, the type of a TLS record.
//
// A capture is live when Start returns and contains every packet up to the call of
// Stop. Stop fails if the kernel dropped a packet, because an incomplete capture
// proves nothing. Capturing needs CAP_NET_RAW in the namespace.
package capture
