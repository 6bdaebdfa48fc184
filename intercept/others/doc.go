// SPDX-License-Identifier: Apache-2.0

// Package others finds the eBPF programs that other software has attached to the hooks of
// cgroups on which a seal depends. It only reads. Package filters examines those of systemd, and
// finds packet filters.
package others
