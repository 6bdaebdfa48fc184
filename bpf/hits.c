// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// clang-format off
//go:build ignore

/* clang-format on */
/* Answers cached queries in the kernel. It is a separate object because only a seal that lasts
 * loads it, and because a kernel that refuses it still has the rest. The maps origins and daemon
 * are those of sotto.c.
 *
 * Runs on 5.10, with the same limits as sotto.c.
 */
#include "repeat.h"

char _license[] SEC("license") = "Dual BSD/GPL";

const volatile __be16 listener_port;
const volatile __u32 prefix4;
const volatile __u32 prefix4_mask;
const volatile __be32 prefix6[4];
const volatile __be32 prefix6_mask[4];
const volatile __u32 slot_count;
const volatile __u8 veth_host[6];
const volatile __u8 veth_inner[6];
const volatile __u16 answer_tag;
const volatile __u32 index_mask;

struct daemon_map daemon SEC(".maps");
struct origins_map origins SEC(".maps");
struct hit_index_map hit_index SEC(".maps");
struct short_hits_map short_hits SEC(".maps");
struct long_hits_map long_hits SEC(".maps");
struct hit_slots_map hit_slots SEC(".maps");
struct hit_control_map hit_control SEC(".maps");
struct hit_counters_map hit_counters SEC(".maps");
struct hit_wanted_map hit_wanted SEC(".maps");
struct hit_events_map hit_events SEC(".maps");
struct hit_scratch_map hit_scratch SEC(".maps");

/* On egress of the host's interface of the listener's veth pair. */
SEC("tc")
int sotto_answer(struct __sk_buff *skb)
{
	return answer_packet(skb);
}
