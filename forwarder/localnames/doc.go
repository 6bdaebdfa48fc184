// SPDX-License-Identifier: Apache-2.0

// Package localnames knows which names only a resolver on this machine, or on the local
// network, can answer: single labels, special-use names (RFC 6761, 6762, 8375, and .internal)
// and the reverse names of private addresses. A [Set] is immutable and may be used
// concurrently; [Set.Contains] allocates nothing. The package does no I/O.
package localnames
