// SPDX-License-Identifier: Apache-2.0

// Package filters finds packet filters of other software that may drop queries to virtual
// addresses: base chains of nftables (also those of iptables-nft), the filter tables of
// iptables-legacy, and programs that systemd attaches to cgroups for IPAddressAllow= and
// RestrictNetworkInterfaces=.
//
// It only reads, and examines packets without sending one. It is for the diagnosis of queries
// that were lost: of an nftables chain it only reports that it may drop packets, not which
// ones.
package filters
