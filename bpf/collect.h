/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Collection of idle slots, and correction of their references, on request of user space. */
#ifndef SOTTO_COLLECT_H
#define SOTTO_COLLECT_H

#include "slots.h"

/* The packet of a BPF_PROG_TEST_RUN: a request after space for an Ethernet header. */
struct collect {
	__u8 ethernet[16];
	__u32 idx;
	__u32 recounted; /* changes and refs are set */
	__u32 changes;	 /* of the slot, when the recount started */
	__u32 refs;
};

/* Lowers the references of slot idx to the result of a recount, unless they changed since it
 * started. Sockets that the kernel closes itself (subflows of MPTCP) run no release hook, and
 * would hold their slots forever.
 */
static __always_inline void slot_lower_refs(__u32 idx, __u32 changes, __u32 refs)
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

static __always_inline bool collect(const struct collect *c)
{
	if (c->recounted)
		slot_lower_refs(c->idx, c->changes, c->refs);
	return slot_collect(c->idx, bpf_ktime_get_ns());
}

#endif
