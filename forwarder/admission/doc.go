// SPDX-License-Identifier: Apache-2.0

// Package admission limits what clients may use at the same time, and divides it
// fairly between them. Its only caller is [sotto/forwarder].
//
//   - [Source] is the unit of fairness: a workload, or a client address where the
//     workload is not known.
//   - [Shares] limits queries in flight: one source may hold as many as are left
//     free.
//   - [ConnTable] limits TCP connections: it evicts the least recently used.
//
// All types are safe for concurrent use.
package admission
