/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Local resolvers: nameservers whose address does not leave this machine. They are kept, that
 * is left alone, or redirected like any other nameserver.
 */
#ifndef SOTTO_LOCAL_H
#define SOTTO_LOCAL_H

#include "address.h"
#include "kernel.h"
#include "settings.h"

#define LOCAL_OWN 1    /* an address of the host */
#define LOCAL_INSIDE 2 /* on a link whose other end is on this machine */

struct local_key {
	__u32 bits;
	__be32 addr[4];
};

/* The host's addresses, and the networks on its internal links: LOCAL_*. User space updates
 * them; empty if local resolvers are redirected.
 */
struct locals_map {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct local_key);
	__type(value, __u32);
};
extern struct locals_map locals SEC(".maps");

/* Returns the flags of an address, or 0 if it is not in the map. */
static __always_inline __u32 local_flags(const __be32 addr[4])
{
	struct local_key key = {.bits = 128, .addr = {addr[0], addr[1], addr[2], addr[3]}};
	__u32 *flags = bpf_map_lookup_elem(&locals, &key);

	return flags ? *flags : 0;
}

/* Reports whether a destination is a local resolver that is kept. The host's addresses on
 * external links may belong to another machine in another network namespace (home is false).
 */
static __always_inline bool is_kept(const __be32 addr[4], bool home)
{
	__u32 flags;

	if (redirects_local)
		return false;
	if (is_loopback(addr))
		return true;
	flags = local_flags(addr);
	return flags & LOCAL_INSIDE || (flags && home);
}

/* Reports whether a packet goes to a local resolver that is kept. The kernel sends packets for
 * addresses of their own network namespace by its loopback interface.
 */
static __always_inline bool is_kept_packet(struct __sk_buff *skb, const __be32 dst[4])
{
	return !redirects_local && (skb->ifindex == LOOPBACK || is_kept(dst, false));
}

/* Replaces 0.0.0.0 and ::, which mean loopback as a destination. */
static __always_inline void name_loopback(__be32 addr[4])
{
	if (addr[3] || !is_loopback(addr))
		return;
	addr[3] = is_mapped(addr) ? bpf_htonl(0x7f000001) : bpf_htonl(1);
}

#endif
