// SPDX-License-Identifier: Apache-2.0

// Package pathtest tests whether queries of sealed cgroups reach Sotto, and finds the packet
// filter that drops them if they do not. Allow-lists of other software see the virtual prefix
// and Sotto's interface: systemd's IPAddressAllow= and RestrictNetworkInterfaces=, firewalls.
//
// The test needs privileges that a daemon drops, and has to move its process into the sealed
// cgroups. Therefore it runs in a child process: [Start] starts it, [Child.Run] makes it test
// and returns its reports, and [Main] is the child. The child changes nothing that lasts: it
// creates a cgroup below each one that it tests, and removes it.
//
// The queries have an opcode that is not assigned, which Sotto answers itself (NOTIMP). They
// have no content. The hooks must be attached while they are sent; see [Child.Stop].
package pathtest
