/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space decides: before loading (constants, which the verifier folds)
 * and while running (the settings map).
 */
#ifndef SOTTO_SETTINGS_H
#define SOTTO_SETTINGS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Grows with every change of a pinned map's meaning: a process that finds
 * another number does not adopt the maps.
 */
#define LAYOUT 1

/* More ports than anybody serves DNS on. */
#define MAX_PORTS 16

/* Slots of the largest prefix. The loader cuts the maps down to the real one. */
#define MAX_SLOTS 65536

/* The deepest cgroup below which exclusion is looked at. systemd's deepest are
 * about ten levels down.
 */
#define MAX_LEVELS 32

const volatile __be16 ports[MAX_PORTS];
const volatile __u32 port_count;
const volatile __be16 listener_port;
const volatile __u32 prefix4; /* in host order, for arithmetic */
const volatile __be32 prefix6[4];
const volatile __u32 slot_count;    /* addresses of a prefix, reserved ones included */
const volatile __u64 quota_max;	    /* slots that a cgroup and all below it may hold; 0: shares */
const volatile __u32 share_level;   /* of share_base below the root */
const volatile __u64 share_base;    /* the deepest cgroup that all sealed ones are in or below */
const volatile __u64 linger_ns;	    /* how long a slot outlives its last unconnected send */
const volatile __u8 has_set_retval; /* bpf_set_retval came to these hooks with 5.18 */

const volatile __u8 recounts;	    /* references are recounted, so that none is lost for good */
const volatile __u8 guarded;	    /* the guard is there: a pinned socket's packets are led in */
const volatile __u64 home_cookie;   /* of the host's network namespace; 0: not known */
const volatile __u64 open_after_ns; /* without a sign of life everything is let through; 0: never */

struct instance {
	__u32 layout;
	__u32 slot_count;
	__u32 prefix4;
	__u32 zero;
	__be32 prefix6[4];
	__u64 exclude_levels; /* bit n: a cgroup n levels below the root is excluded */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct instance);
} settings SEC(".maps");

/* What the daemon tells while it runs; it alone writes here. */
struct guard {
	__u64 alive;	   /* bpf_ktime_get_ns of its last sign of life */
	__u64 seal_levels; /* bit n: a cgroup n levels below the root is sealed */
	__u32 veth;	   /* the interface that leads to the listener; 0: it is gone */
	__u32 drop;	   /* DROP_*: what is stopped, not only counted */
};

#define DROP_PLAIN 1   /* queries in the clear */
#define DROP_UNHELD 2  /* packets to a virtual address that the socket does not hold */
#define DROP_VIRTUAL 4 /* all packets to virtual addresses: the instance has stopped */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guard);
} daemon SEC(".maps");

#define LINK_INSIDE 1 /* it leads to what runs on this machine, not off it */
#define LINK_STRICT 2 /* it takes no IPv4 packet that did not come the way back (rp_filter) */

/* The host's interfaces that are guarded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} links SEC(".maps");

/* Of a function that the verifier takes apart once for each program, whatever its callers
 * know: by its BTF, for all arguments. What is inlined, or static, is taken apart once for
 * each way that leads there. Needs 5.6; arguments are scalars and the context.
 */
#define GLOBAL __attribute__((noinline))

/* Of a function that reads what pointers lead to. The verifier takes it apart for each call,
 * and forgets at its end what it found in the words that the function wrote, so that all
 * ways through it go on as one.
 */
#define LOCAL static __attribute__((noinline))

static __always_inline struct guard *guard_state(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&daemon, &zero);
}

/* An interface that nobody told of yet may lead anywhere. */
static __always_inline bool leads_off(__u32 ifindex)
{
	__u32 *is = bpf_map_lookup_elem(&links, &ifindex);

	return !is || !(*is & LINK_INSIDE);
}

/* Whether the daemon is dead, where that opens the seal. The clock stands still while
 * the machine sleeps.
 */
GLOBAL int is_open(void)
{
	struct guard *g;

	if (!open_after_ns)
		return false;
	g = guard_state();
	return g && (__s64)(bpf_ktime_get_ns() - g->alive) > (__s64)open_after_ns;
}

#endif
