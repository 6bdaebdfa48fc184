// SPDX-License-Identifier: Apache-2.0

// Package rebind refuses answers by which a name on the Internet stands for an address of this
// machine or of its network. A web page from such a name could otherwise reach services there that
// trust the network (DNS rebinding). An [Exchanger] is put around the servers of a group, below the
// cache, so that a cached answer costs nothing.
//
// An answer with such an address in an A or AAAA record, or in a hint of an SVCB or HTTPS record,
// is replaced as a whole: by an answer without records, with the Extended DNS Error 15 (Blocked).
// It is not replaced by an error, on which clients ask other servers. It is cached for a minute.
// In the additional section, which clients rarely use, such an address removes the section.
//
// If it cannot be found out whether an IPv6 address stands for an IPv4 address of the network, because
// the prefix of its NAT64 is not known, the query fails.
//
// Names that are allowed, and names below them, are not checked.
package rebind
