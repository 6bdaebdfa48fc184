// SPDX-License-Identifier: Apache-2.0

// Package guard attaches the guard's programs to the interfaces of the host.
//
// The guard stops DNS queries in the clear that the hooks of a seal cannot redirect: from
// raw and packet sockets, from sockets that were connected before the seal, and, on
// request, those that the host forwards. It redirects packets for virtual addresses that a
// socket sends by another interface (SO_BINDTODEVICE) to the listener, and drops packets
// with virtual addresses that come from outside or are about to leave the machine.
//
// A [Guard] is created by [New] from programs and maps that its caller has loaded.
// [Guard.Attach] attaches them to all interfaces, [Guard.Reconcile] adds new interfaces
// and forgets removed ones, and [Guard.Run] writes heartbeats, by which the programs know that the process is
// alive.
//
// Programs are attached as tcx links (Linux 6.6), which are pinned, or as filters of a
// clsact queueing discipline, which persist by themselves. So a crash leaves the guard in
// place; the next process adopts it, or [RemovePins] and [ClearFilters] remove it.
package guard
