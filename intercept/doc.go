// SPDX-License-Identifier: Apache-2.0

// Package intercept redirects the DNS queries of cgroups to a listener on this machine.
//
// It owns what Sotto has in the kernel: the hooks (eBPF programs on cgroups) with their
// maps and pins, the guard on the interfaces, the listener's network, and the records of
// running instances. It knows nothing about DNS except the port, and does not import the
// forwarder.
//
// # Terms
//
//   - An instance seals some cgroups. Several instances run side by side; the innermost seal
//     applies.
//   - A workload is what runs in one cgroup below a sealed one.
//   - A slot is a pair of virtual addresses, IPv4 and IPv6, that stands for one original
//     destination (a nameserver's address and port) of one workload. A hook replaces the
//     destination of a query with the slot's virtual address, on which the listener receives
//     it, and restores the nameserver's address in the reply. A slot is in use while a
//     connected socket refers to it, and for a while (the linger time) after the last query
//     of an unconnected socket.
//   - A share is the number of slots that a cgroup, with all cgroups below it, may use.
//   - The guard stops queries in the clear that no hook has redirected; see package guard.
//   - Leftovers are what a crashed process left in the kernel. The next process with the
//     same instance name adopts them.
//
// # Use
//
// [Open] creates everything except the hooks. The caller then starts its listener, with
// [Instance.Do]. [Instance.Attach] attaches the hooks, [Instance.Run] repairs and collects,
// and [Instance.Close] removes everything. [Down] removes leftovers.
//
// # Promises
//
//   - It fails closed. A query that cannot be redirected is refused: ENOBUFS if no slot is
//     free, ECONNREFUSED without a listener, EHOSTUNREACH without the veth pair.
//   - A crash does not open the seal. Hooks, maps, namespace and routes outlive the process;
//     the next Open with the same name adopts them without a gap, and Down removes them.
//
// It needs root, cgroup2 and Linux 5.10 or newer.
package intercept
