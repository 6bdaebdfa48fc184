// SPDX-License-Identifier: Apache-2.0

// Package demo is the scenario of `sotto demo`: the main job on a network made
// for it, with the proof.
//
// It builds a host and a LAN out of namespaces (internal/netlab) that no route
// leads out of, puts plain nameservers and a DNS over TLS server on the LAN
// (internal/dnstest), asks the same questions unsealed and through `sotto exec`,
// captures the wire both times (internal/capture), and prints both captures
// side by side with a verdict. The sealed half is the real program, run as a
// user would; nothing in it is simulated. It needs root and no internet.
package demo
