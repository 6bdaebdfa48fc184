/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sockets, destinations and tasks are Sotto's business. */
#ifndef SOTTO_CLASSIFY_H
#define SOTTO_CLASSIFY_H

#include "counters.h"
#include "settings.h"

/* From kernel headers that do not mix with linux/bpf.h's users here. */
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_UDPLITE 136
#define PROTO_MPTCP 262

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

/* Destinations that are left alone: this machine itself (where local stubs listen,
 * whose own queries are caught in turn), groups, and any instance's virtual
 * addresses. 0.0.0.0 and :: mean loopback in connect, and in sendmsg that a
 * connected socket sent with nothing but a control message.
 */
static __always_inline bool is_exempt(const __be32 addr[4])
{
	if (slot_of(addr))
		return true;
	if (is_mapped(addr)) {
		__u32 a = bpf_ntohl(addr[3]);

		return !a || a >> 24 == 127 || a >> 28 == 0xe || a == 0xffffffff ||
		       a >> 17 == 0xc612 >> 1; /* 198.18.0.0/15 */
	}
	if (!addr[0] && !addr[1] && !addr[2])
		return bpf_ntohl(addr[3]) <= 1; /* ::, ::1 */
	return bpf_ntohl(addr[0]) >> 24 == 0xff ||
	       (bpf_ntohl(addr[0]) == 0xfd736f74 && bpf_ntohl(addr[1]) >> 16 == 0x746f);
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
static __always_inline bool is_excluded(void)
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
