// SPDX-License-Identifier: Apache-2.0

// Package drops reads the events that the kernel half publishes, during a trace, about queries
// that it refused or dropped (bpf/drops.h). Parsing is pure: the packets in the events are
// those of hostile programs too.
package drops
