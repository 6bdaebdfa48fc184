/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sockets, ports, tasks and interfaces are sealed. */
#ifndef SOTTO_CLASSIFY_H
#define SOTTO_CLASSIFY_H

#include "kernel.h"
#include "settings.h"

/* Sotto's own sockets. User space adds them by file descriptor; an entry exists as long as its
 * socket, so that no other socket can inherit it.
 */
struct own_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
};
extern struct own_map own SEC(".maps");

static __always_inline bool is_own(struct bpf_sock *sk)
{
	return sk && bpf_sk_storage_get(&own, sk, 0, 0);
}

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

/* Reports whether the other end of an interface is outside of this machine. Unknown interfaces
 * are treated as external.
 */
static __always_inline bool is_external(__u32 ifindex)
{
	__u32 *flags = bpf_map_lookup_elem(&links, &ifindex);

	return !flags || !(*flags & LINK_INSIDE);
}

/* Reports whether the seal fails open because the daemon is dead. The clock stops while the
 * machine is suspended.
 */
GLOBAL int is_open(void)
{
	struct guard *g;

	if (!open_after_ns)
		return false;
	g = guard_state();
	return g && (__s64)(bpf_ktime_get_ns() - g->alive) > (__s64)open_after_ns;
}

/* Reports whether the current task's cgroup or one above it is excluded. The hooks run for the
 * cgroup that a socket was created in; its user is the task.
 */
GLOBAL int is_excluded(void)
{
	__u32 zero = 0;
	struct instance *set = bpf_map_lookup_elem(&settings, &zero);
	__u64 levels;

	if (!set)
		return false;
	levels = set->exclude_levels;
	for (int i = 0; i < MAX_SEARCHED_LEVELS && levels; i++, levels &= levels - 1) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(lowest_level(levels));

		if (!id)
			break; /* below the task's own cgroup */
		if (bpf_map_lookup_elem(&exclude, &id))
			return true;
	}
	return false;
}

#endif
