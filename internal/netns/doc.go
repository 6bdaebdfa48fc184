// SPDX-License-Identifier: Apache-2.0

// Package netns makes, names, enters and removes network namespaces.
//
// A name is the same as for ip-netns(8): a bind mount of the namespace on
// /run/netns/NAME. So `ip netns` lists and enters namespaces of this package, and vice
// versa. A namespace exists while a name, an open *NS, or a process or socket inside
// it refers to it.
//
// The current namespace belongs to a thread, not to the process, and Go moves
// goroutines between threads. Therefore no function changes the namespace of its
// caller: [NS.Do] runs a function on a goroutine and thread of its own. A thread that
// cannot return to its first namespace exits, and no other goroutine uses it. Sockets
// and netlink handles that the function opens, and processes that it starts, stay in
// the namespace after it returns.
//
// [Links] connects namespaces for code that must not use netlink itself: the labs of
// tests and of the demo.
//
// Making and entering namespaces needs CAP_SYS_ADMIN; naming them needs it in the user
// namespace that owns the mount namespace. The package imports nothing of Sotto, and
// any package may use it.
package netns
