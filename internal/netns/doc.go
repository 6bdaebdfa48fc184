// SPDX-License-Identifier: Apache-2.0

// Package netns makes, names, enters and takes away network namespaces.
//
// A name is what ip-netns(8) calls one: a bind mount of the namespace on
// /run/netns/NAME, so `ip netns` lists and enters what this package made and
// the other way round. A namespace lives as long as any of these holds it: a
// name, an open *NS, a process or a socket inside it.
//
// Which namespace a thread is in is a property of the thread, not of the
// process, and Go moves goroutines between threads at will. So nothing here
// changes the namespace of its caller: [NS.Do] runs a function on a goroutine
// and a thread of its own, and a thread that could not be brought back is
// thrown away, never handed to another goroutine. What the function opens
// (sockets, netlink handles) or starts (processes) stays in the namespace
// after it returned.
//
// [Links] wires namespaces together for code outside of intercept, which may
// not use netlink itself: labs for tests and the demo.
//
// Making and entering namespaces needs CAP_SYS_ADMIN; naming them needs it in
// the user namespace that owns the mount namespace. This package imports
// nothing of Sotto and may be used by anything in it.
package netns
