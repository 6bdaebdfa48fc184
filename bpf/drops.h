/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events about queries that the programs refuse or drop, while user space traces. Without a
 * trace a refusal costs one look-up more. Programs that cannot be traced (traces is 0) contain
 * none of this.
 */
#ifndef SOTTO_DROPS_H
#define SOTTO_DROPS_H

#include "callers.h"
#include "counters.h"
#include "kernel.h"
#include "settings.h"

/* What of a packet an event has, from its IP header: the headers (60 bytes each at most, without
 * the extensions of IPv6) and a question of the maximum length (12 + 255 + 4 bytes).
 */
#define DROP_BYTES 512 /* a power of two */

#define DROP_PASSED 1 /* drop.flags: the guard only counts, and let the packet pass */
#define DROP_HOOK 2   /* a hook refused the destination in dst; there is no packet */

struct drop {
	__u64 time;   /* bpf_ktime_get_ns */
	__u64 cgroup; /* of the socket, or of the task at a hook; 0: unknown */
	struct caller caller;
	__be32 dst[4];
	__be16 dport;
	__u16 protocol;
	__u32 reason; /* enum counter */
	__u32 flags;
	__u32 len; /* bytes of the packet that follow */
};

struct drop_packet {
	struct drop head;
	__u8 data[DROP_BYTES];
};

/* If it is full, the event is lost, and counted. Each process of the instance has its own. */
struct drops_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
};
extern struct drops_map drops SEC(".maps");

/* Reports whether user space traces. */
static __always_inline bool is_watched(void)
{
	__u32 zero = 0;
	__u64 *since;

	if (!traces)
		return false;
	since = bpf_map_lookup_elem(&watch, &zero);
	return since && *since;
}

static __always_inline void current_caller(struct caller *c)
{
	c->pid = bpf_get_current_pid_tgid() >> 32;
	c->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(c->comm, sizeof(c->comm));
}

/* Reads which process sent a packet. A datagram leaves in a system call of its process; the
 * kernel may send a segment at any time, for the process that the hooks stored.
 */
static __always_inline void packet_caller(struct __sk_buff *skb, struct caller *to)
{
	struct bpf_sock *sk = full_sock(skb);
	struct caller *c;

	if (!sk)
		return;
	if (sk->type == TYPE_STREAM) {
		c = bpf_sk_storage_get(&callers, sk, 0, 0);
		if (c)
			*to = *c;
	} else if (knows_sender && bpf_skb_cgroup_id(skb) == bpf_get_current_cgroup_id()) {
		current_caller(to);
	}
}

/* Returns the length of an Ethernet header with its VLAN tags. */
static __always_inline __u32 frame_len(struct __sk_buff *skb)
{
	__u32 at = ETH_HLEN;
	__be16 type;

	for (int i = 0; i < MAX_TAGS; i++) {
		if (bpf_skb_load_bytes(skb, at - sizeof(type), &type, sizeof(type)) ||
		    (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD)))
			break;
		at += 4;
	}
	return at;
}

static __always_inline void drop_store(struct __sk_buff *skb, enum counter reason, __u32 framed,
				       __u32 flags)
{
	struct drop_packet *d;
	__u32 at = framed ? frame_len(skb) : 0;
	__u32 len = skb->len - at;
	bool behind = false; /* a link header of unknown length */

	if (skb->len <= at)
		return;
	d = bpf_ringbuf_reserve(&drops, sizeof(*d), 0);
	if (!d) {
		count(COUNT_EVENT_LOST);
		return;
	}
	__builtin_memset(&d->head, 0, sizeof(d->head));
	d->head.time = bpf_ktime_get_ns();
	d->head.cgroup = bpf_skb_cgroup_id(skb);
	d->head.reason = reason;
	d->head.flags = flags;
	packet_caller(skb, &d->head.caller);
	if (!framed && has_link_header(skb)) {
		behind = true;
		len = ip_len(skb);
	}
	if (len > DROP_BYTES)
		len = DROP_BYTES;
	d->head.len = len;
	asm volatile("" : "+r"(len)); /* keep the mask, which the verifier needs */
	len = ((len - 1) & (DROP_BYTES - 1)) + 1;
	if (behind ? bpf_skb_load_bytes_relative(skb, 0, d->data, len, BPF_HDR_START_NET)
		   : bpf_skb_load_bytes(skb, at, d->data, len))
		d->head.len = 0;
	bpf_ringbuf_submit(d, 0);
}

/* Counts a packet that is dropped, and reports it to a trace. */
GLOBAL int drop_count(struct __sk_buff *skb, enum counter reason, __u32 framed)
{
	count(reason);
	if (is_watched())
		drop_store(skb, reason, framed, 0);
	return 0;
}

/* Reports a destination that a hook refused to a trace. */
static __always_inline void refuse_store(const __be32 dst[4], __be16 dport, __u16 protocol,
					 enum counter reason)
{
	struct drop *d;

	if (!is_watched())
		return;
	d = bpf_ringbuf_reserve(&drops, sizeof(*d), 0);
	if (!d) {
		count(COUNT_EVENT_LOST);
		return;
	}
	d->time = bpf_ktime_get_ns();
	d->cgroup = bpf_get_current_cgroup_id();
	current_caller(&d->caller);
	__builtin_memcpy(d->dst, dst, sizeof(d->dst));
	d->dport = dport;
	d->protocol = protocol;
	d->reason = reason;
	d->flags = DROP_HOOK;
	d->len = 0;
	bpf_ringbuf_submit(d, 0);
}

#endif
