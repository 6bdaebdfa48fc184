/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Settings from user space: constants that are set before loading, which the verifier folds,
 * and maps that are written while the programs run. sotto.c defines them.
 */
#ifndef SOTTO_SETTINGS_H
#define SOTTO_SETTINGS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Version of the pinned maps. Increase it when the meaning of one changes: a process does not
 * adopt maps of another version.
 */
#define LAYOUT 1

/* More ports than any host serves DNS on. */
#define MAX_PORTS 16

/* Slots of the largest prefix. The loader reduces the maps to the actual number. */
#define MAX_SLOTS 65536

/* The first address that a slot can have; package network assigns those before it. */
#define FIRST_SLOT 4

/* Cgroup levels, from the root, that are searched for sealed and excluded cgroups. The deepest
 * cgroups of systemd are about ten levels down.
 */
#define MAX_LEVELS 32

/* Different levels that are searched: each costs time at the start, in every program. */
#define MAX_SEARCHED_LEVELS 8

/* A function that the verifier checks once per program, by its BTF, for all arguments (Linux
 * 5.6). Inlined and static functions are checked again on each path that calls them.
 * Arguments are scalars or the context.
 */
#define GLOBAL __attribute__((noinline))

/* A function with other pointers as arguments. The verifier checks it per call, and at its
 * return forgets the values of the words that it wrote, so that all paths through it
 * continue as one.
 */
#define LOCAL static __attribute__((noinline))

extern const volatile __be16 ports[MAX_PORTS]; /* sealed ports */
extern const volatile __u32 port_count;
extern const volatile __be16 listener_port;
extern const volatile __u32 prefix4;	  /* in host order, for arithmetic */
extern const volatile __u32 prefix4_mask; /* in host order */
extern const volatile __be32 prefix6[4];
extern const volatile __be32 prefix6_mask[4];
extern const volatile __u32 slot_count; /* addresses of a prefix, reserved ones included */

extern const volatile __u64 quota_max;	 /* slots per cgroup and all below it; 0: shares */
extern const volatile __u32 share_level; /* level of share_base below the root */
extern const volatile __u64 share_base;	 /* the deepest common ancestor of the sealed cgroups */
extern const volatile __u64 linger_ns;	 /* how long a slot outlives its last unconnected send */

extern const volatile __u8 has_set_retval; /* these hooks may call bpf_set_retval (5.18) */
extern const volatile __u8 recounts;	   /* user space recounts the references of slots */
extern const volatile __u64 open_after_ns; /* fail open without a heartbeat this long; 0: never */

extern const volatile __u8 guarded;	 /* the guard redirects packets of bound sockets */
extern const volatile __u8 guards_host;	 /* plain queries without a local socket are stopped too */
extern const volatile __u64 home_cookie; /* of the host's network namespace; 0: unknown */
extern const volatile __u8 redirects_local; /* local resolvers are redirected too */
extern const volatile __u8 one_command;	    /* everything in the seal belongs to one command */
extern const volatile __u8 attributes;	    /* the process of each query is published */
extern const volatile __u8 knows_current;   /* programs on packets may read the process (6.10) */
extern const volatile __u8 knows_sender;    /* they may read its name and user too (6.16) */
extern const volatile __u8 traces;	    /* user space may trace what is dropped */
extern const volatile __u32 back_mark;	    /* of replies on the way to a bound socket */
extern const volatile __u8 veth_host[6];    /* Ethernet addresses of the listener's veth pair */
extern const volatile __u8 veth_inner[6];

/* tc_index of packets from this machine to virtual addresses. The host's NAT may give one
 * another destination, which must not receive it. tc_index stays with a packet from interface
 * to interface and, unlike a mark, no routing rule matches it.
 */
extern const volatile __u16 virtual_tag;

/* tc_index of replies of the kernel (repeat.h), on the way through ingress of the veth pair. */
extern const volatile __u16 answer_tag;

/* Positions of the bits of a word, by the product with a de Bruijn sequence. */
extern const volatile __u8 bit_positions[32];

/* Returns the lowest level in a set, which is not empty, without a branch: the verifier follows
 * every one.
 */
static __always_inline __u32 lowest_level(__u64 levels)
{
	__u32 bit = levels & -levels;

	return bit_positions[(bit * 0x077cb531U) >> 27];
}

struct instance {
	__u32 layout;
	__u32 slot_count;
	__u32 prefix4;
	__u32 zero;
	__be32 prefix6[4];
	__u64 exclude_levels; /* bit n: a cgroup n levels below the root is excluded */
};

struct settings_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct instance);
};
extern struct settings_map settings SEC(".maps");

/* State of the daemon, which is its only writer. */
struct guard {
	__u64 alive;	   /* bpf_ktime_get_ns of its last heartbeat */
	__u64 seal_levels; /* bit n: a cgroup n levels below the root is sealed */
	__u32 veth;	   /* the host's interface of the listener's veth pair; 0: removed */
	__u32 drop;	   /* DROP_*: what is dropped, not only counted */
};

#define DROP_PLAIN 1   /* plain queries */
#define DROP_UNHELD 2  /* packets to a virtual address whose slot the socket does not hold */
#define DROP_VIRTUAL 4 /* all packets to virtual addresses: the instance has stopped */

struct daemon_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guard);
};
extern struct daemon_map daemon SEC(".maps");

static __always_inline struct guard *guard_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&daemon, &zero);
}

#define LINK_INSIDE 1 /* its other end is on this machine */
#define LINK_STRICT 2 /* drops IPv4 packets whose source is routed elsewhere (rp_filter) */

/* The host's guarded interfaces: LINK_*. */
struct links_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
};
extern struct links_map links SEC(".maps");

/* Cgroups, with their level below the root. */
struct cgroup_set {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
};
extern struct cgroup_set sealed SEC(".maps");
extern struct cgroup_set exclude SEC(".maps");

#endif
