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
const volatile __u64 quota_max;	    /* slots that one cgroup may hold */
const volatile __u64 linger_ns;	    /* how long a slot outlives its last unconnected send */
const volatile __u8 has_set_retval; /* bpf_set_retval came to these hooks with 5.18 */

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

#endif
