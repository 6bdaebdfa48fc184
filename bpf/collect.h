/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space asks of a slot: whether it idles, and how many sockets hold it. */
#ifndef SOTTO_COLLECT_H
#define SOTTO_COLLECT_H

#include "slots.h"

/* Lowers the references of slot idx to what a recount found, if none came or went since
 * it began: sockets that the kernel closes by itself (subflows of MPTCP) run no release
 * hook, and would hold their slots for ever.
 */
static __always_inline void slot_settle(__u32 idx, __u32 changes, __u32 refs)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	bool lower = false;

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	if (s->used && s->changes == changes && s->refs > refs) {
		s->refs = refs;
		s->changes++;
		lower = true;
	}
	bpf_spin_unlock(&s->lock);
	if (lower)
		count(COUNT_SLOT_RECOUNTED);
}

/* Collects one slot, for user space, which found it idle and calls this with
 * BPF_PROG_TEST_RUN: it runs on no interface. The packet holds the request after room for
 * an Ethernet header. Programs that are made to be called (SEC("syscall")) need 5.14; a
 * loop over many slots is more than the verifier of 5.10 walks through.
 */
struct collect {
	__u8 ethernet[16];
	__u32 idx;
	__u32 settle; /* recounted: changes and refs are given */
	__u32 changes;
	__u32 refs;
};

SEC("tc")
int sotto_collect(struct __sk_buff *skb)
{
	struct collect *c = (void *)(long)skb->data;

	if ((void *)(c + 1) > (void *)(long)skb->data_end)
		return 0;
	if (c->settle)
		slot_settle(c->idx, c->changes, c->refs);
	return slot_collect(c->idx, bpf_ktime_get_ns());
}

#endif
