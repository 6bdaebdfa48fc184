/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Kinds of addresses. IPv4 addresses are mapped (::ffff:0:0/96). Only this instance's prefixes
 * are virtual: another network within 198.18.0.0/15 or fd73:6f74:746f::/48 may contain a
 * nameserver like any other.
 */
#ifndef SOTTO_ADDRESS_H
#define SOTTO_ADDRESS_H

#include "settings.h"

static __always_inline bool is_mapped(const __be32 addr[4])
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

static __always_inline bool in_prefix(const __be32 addr[4])
{
	if (is_mapped(addr))
		return (bpf_ntohl(addr[3]) & prefix4_mask) == prefix4;
	return (addr[0] & prefix6_mask[0]) == prefix6[0] &&
	       (addr[1] & prefix6_mask[1]) == prefix6[1] &&
	       (addr[2] & prefix6_mask[2]) == prefix6[2] &&
	       (addr[3] & prefix6_mask[3]) == prefix6[3];
}

/* Returns the slot of a virtual address, or 0. */
static __always_inline __u32 slot_of(const __be32 addr[4])
{
	__u32 idx;

	if (is_mapped(addr))
		idx = bpf_ntohl(addr[3]) - prefix4;
	else if (addr[0] == prefix6[0] && addr[1] == prefix6[1] && addr[2] == prefix6[2])
		idx = bpf_ntohl(addr[3]) - bpf_ntohl(prefix6[3]);
	else
		return 0;
	return idx < slot_count ? idx : 0;
}

/* Reports whether a packet goes to an address of the host in a prefix, and not to the listener.
 * Where the host has no other address of the family, the listener's replies do so. They are
 * sent from inside the seal if that is of the whole host.
 */
static __always_inline bool is_to_host(const __be32 addr[4], __be16 port)
{
	__u32 idx = slot_of(addr);

	return idx && idx < FIRST_SLOT && port != listener_port;
}

/* This machine itself. 0.0.0.0 and :: mean loopback in connect, and in a sendmsg of a connected
 * socket that has only a control message.
 */
static __always_inline bool is_loopback(const __be32 addr[4])
{
	if (is_mapped(addr)) {
		__u32 a = bpf_ntohl(addr[3]);

		return !a || a >> 24 == 127;
	}
	return !addr[0] && !addr[1] && !addr[2] && bpf_ntohl(addr[3]) <= 1;
}

/* Sets addr to one of a socket's addresses. The caller reads both, as volatile: otherwise the
 * compiler chooses between addresses of fields, and the verifier requires constant offsets.
 */
static __always_inline void choose_addr(__be32 addr[4], bool is6, __be32 v4, const __be32 v6[4])
{
	addr[0] = is6 ? v6[0] : 0;
	addr[1] = is6 ? v6[1] : 0;
	addr[2] = is6 ? v6[2] : bpf_htonl(0xffff);
	addr[3] = is6 ? v6[3] : v4;
}

/* A multicast or broadcast address. A slot cannot stand for several servers. */
static __always_inline bool is_group(const __be32 addr[4])
{
	if (is_mapped(addr)) {
		__u32 a = bpf_ntohl(addr[3]);

		return a >> 28 == 0xe || a == 0xffffffff;
	}
	return bpf_ntohl(addr[0]) >> 24 == 0xff;
}

static __always_inline bool is_link_local(const __be32 addr[4])
{
	return bpf_ntohl(addr[0]) >> 22 == 0xfe80 >> 6; /* fe80::/10 */
}

#endif
