/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sockets, destinations and tasks are Sotto's business. Only the prefixes of this
 * instance have a meaning here: another network in 198.18.0.0/15 or fd73:6f74:746f::/48 may
 * hold a nameserver like any other.
 */
#ifndef SOTTO_CLASSIFY_H
#define SOTTO_CLASSIFY_H

#include "settings.h"

/* From kernel headers that do not mix with linux/bpf.h's users here. */
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_UDPLITE 136
#define PROTO_MPTCP 262
#define FAMILY_INET6 10	  /* AF_INET6 */
#define FAMILY_PACKET 17  /* AF_PACKET */
#define TYPE_STREAM 1	  /* SOCK_STREAM */
#define TYPE_RAW 3	  /* SOCK_RAW */
#define TCP_STATE_CLOSE 7 /* TCP_CLOSE: of a datagram socket, that it is not connected */
#define LOOPBACK 1	  /* LOOPBACK_IFINDEX, of every network namespace */

/* Sotto's own sockets, entered by file descriptor: the entry lives and dies with
 * the socket, so that nothing else can ever have it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} own SEC(".maps");

/* Excluded cgroups, with their level below the root. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} exclude SEC(".maps");

/* Ping sockets (IPPROTO_ICMP) run connect hooks too, and have no ports. */
static __always_inline bool carries_dns(__u32 protocol)
{
	return protocol == PROTO_UDP || protocol == PROTO_TCP || protocol == PROTO_UDPLITE ||
	       protocol == PROTO_MPTCP;
}

static __always_inline bool is_sealed_port(__be16 port)
{
	for (__u32 i = 0; i < MAX_PORTS && i < port_count; i++)
		if (ports[i] == port)
			return true;
	return false;
}

static __always_inline bool is_mapped(const __be32 addr[4])
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

const volatile __u32 prefix4_mask; /* in host order */
const volatile __be32 prefix6_mask[4];

static __always_inline bool in_prefix(const __be32 addr[4])
{
	if (is_mapped(addr))
		return (bpf_ntohl(addr[3]) & prefix4_mask) == prefix4;
	return (addr[0] & prefix6_mask[0]) == prefix6[0] &&
	       (addr[1] & prefix6_mask[1]) == prefix6[1] &&
	       (addr[2] & prefix6_mask[2]) == prefix6[2] &&
	       (addr[3] & prefix6_mask[3]) == prefix6[3];
}

/* The slot that a virtual address stands for, or 0. */
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

/* This machine itself, where local resolvers listen; their own queries are caught in turn.
 * 0.0.0.0 and :: mean loopback in connect, and in sendmsg that a connected socket sent
 * with nothing but a control message.
 */
static __always_inline bool is_loopback(const __be32 addr[4])
{
	if (is_mapped(addr)) {
		__u32 a = bpf_ntohl(addr[3]);

		return !a || a >> 24 == 127;
	}
	return !addr[0] && !addr[1] && !addr[2] && bpf_ntohl(addr[3]) <= 1;
}

/* A multicast or broadcast address: no slot can stand for what several may answer. */
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

static __always_inline bool is_own(struct bpf_sock *sk)
{
	return sk && bpf_sk_storage_get(&own, sk, 0, 0);
}

/* Whether the current task's cgroup, or one above it, is excluded. The hooks run
 * by the cgroup that the socket was made in; who asks is the task.
 */
GLOBAL int is_excluded(void)
{
	__u32 zero = 0;
	struct instance *set = bpf_map_lookup_elem(&settings, &zero);
	__u64 levels;

	if (!set)
		return false;
	levels = set->exclude_levels;
	if (!levels)
		return false;
	for (int level = 0; level < MAX_LEVELS; level++) {
		__u64 id;

		if (!(levels & (1ULL << level)))
			continue;
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			break; /* deeper than the task's own */
		if (bpf_map_lookup_elem(&exclude, &id))
			return true;
	}
	return false;
}

#endif
