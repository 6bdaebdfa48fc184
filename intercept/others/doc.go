// SPDX-License-Identifier: Apache-2.0

// Package others finds what other software has attached to the hooks that a seal depends on:
// eBPF programs on cgroups, and chains of nftables that drop packets. It only reads.
package others
