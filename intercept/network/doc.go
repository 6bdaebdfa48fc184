// SPDX-License-Identifier: Apache-2.0

// Package network makes the network that connects the host to Sotto's listener, and
// removes it.
//
// The listener has a network namespace of its own, so that its sockets cannot be reached
// from outside. A veth pair connects it with the host. The virtual addresses of an instance
// are two networks, one IPv4 and one IPv6 prefix; the host routes both to the veth, and
// inside the namespace every address of them is local. An unreachable route with the
// lowest priority lies behind each of the two routes, so that a packet for a virtual
// address never follows the default route.
//
// A [Network] is created by [New]; [Network.Ensure] makes what is missing, [Network.Run]
// repairs what other programs change, and [Network.Close] removes everything. If the
// process crashes, everything stays: the next process adopts it, or [Clear] removes it.
//
// The package also knows the address plan: the prefixes of each instance and the addresses
// in them that are reserved.
//
// It uses netlink and needs CAP_NET_ADMIN and CAP_SYS_ADMIN. It does not use eBPF.
package network
