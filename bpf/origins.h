/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each slot stands for. slots.h changes it. */
#ifndef SOTTO_ORIGINS_H
#define SOTTO_ORIGINS_H

#include "settings.h"

/* An original destination, and the client's network namespace and cgroup. IPv4 addresses are
 * mapped, so that AF_INET6 and AF_INET sockets share slots. No implicit padding: it is a hash
 * key.
 */
struct key {
	__be32 addr[4];
	__be16 port;
	__u16 zero16;
	__u32 netns; /* low half of its cookie; 0: the host's, or unknown */
	__u64 cgroup;
};

/* Apart from struct slot because user space maps this array, and the kernel maps none that
 * contains a lock. Kept after the slot is freed, for late replies.
 */
struct origin {
	struct key key;
	__u32 gen; /* odd while key changes: user space reads without the lock */
	__u32 zero;
};

struct origins_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct origin);
};
extern struct origins_map origins SEC(".maps");

#endif
