// SPDX-License-Identifier: Apache-2.0

// Package local knows which addresses do not leave this machine: loopback, those of the
// host, and those on its internal links. [Table] keeps the map that the hooks and the guard
// read; [Resolvers] opens sockets to nameservers with such an address, in the network
// namespace of the client. Its only caller is sotto/intercept.
package local
