/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Shares: how many slots a workload may hold, so that none takes what others need.
 *
 * A cgroup counts with all below it, and may hold half of what its parent may hold and its
 * siblings do not. So a user to whom a subtree is delegated has one share, however many
 * cgroups it makes there, and a cgroup that asks for its first slot finds half of what is
 * left. Above the seal there is nothing to share: limits start below share_base. Processes
 * in share_base itself, or above it, have the share of one more cgroup below it.
 */
#ifndef SOTTO_SHARES_H
#define SOTTO_SHARES_H

#include "counters.h"
#include "settings.h"

/* Slots held in a cgroup and below it, at every level: which of them are limited may change
 * with the next process that adopts the map. The parent is kept because who gives a slot
 * back is not in the cgroup that took it. Key 0 is all of them together. The complement of
 * a cgroup's number is the processes in the cgroup itself.
 */
struct share {
	struct bpf_spin_lock lock;
	__u32 held;
	__u64 parent;
};

/* User space removes entries of cgroups that are removed. Larger than the number of slots:
 * a cgroup's entry remains while it exists.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_SLOTS);
	__type(key, __u64);
	__type(value, struct share);
} shares SEC(".maps");

/* Cgroups that have just taken their first slot: user space looks up their paths while
 * they exist. One that does not fit is looked up later.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} arrivals SEC(".maps");

/* Global, like those below: before 6.3 the verifier follows every value that a function of a
 * program with several could have, and the walks over levels would be too much for it.
 */
GLOBAL int share_held(__u64 cgroup)
{
	struct share *s = bpf_map_lookup_elem(&shares, &cgroup);

	return s ? s->held : 0;
}

/* The first level whose cgroups are limited. A task that left the seal, and keeps a socket
 * from there, has the whole hierarchy above it.
 */
GLOBAL int share_first_level(void)
{
	return bpf_get_current_ancestor_cgroup_id(share_level) == share_base ? share_level + 1 : 1;
}

/* Reports whether one more slot is within a limit. held counts among the slots of parent,
 * which may hold allowed of them.
 */
static __always_inline bool share_fits(__u32 held, __u32 parent, __u32 allowed)
{
	if (quota_max)
		return held < quota_max;
	/* held < (allowed - siblings) / 2, where siblings = parent - held */
	return (__s32)held < (__s32)(allowed - parent);
}

/* Reports whether the current task's cgroup, and each limited one above it, may hold one
 * more slot. Several CPUs may pass at once: shares are exact up to their number.
 */
static __always_inline bool share_allows(__u64 own)
{
	__u32 parent = share_held(0), allowed = slot_count, first = share_first_level();
	bool limited = false;

	for (__u32 i = 0; i < MAX_LEVELS; i++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(first + i);
		__u32 held;

		if (!id)
			break; /* deeper than the task's own */
		held = share_held(id);
		if (!share_fits(held, parent, allowed))
			return false;
		allowed = (allowed - parent + held) / 2;
		parent = held;
		limited = true;
	}
	return limited || share_fits(share_held(~own), parent, allowed);
}

/* Counts one more slot of a cgroup. It returns 0 if there is no memory for that. */
GLOBAL int share_add(__u64 cgroup, __u64 parent)
{
	struct share *s = bpf_map_lookup_elem(&shares, &cgroup);

	if (!s) {
		struct share none = {.parent = parent};

		bpf_map_update_elem(&shares, &cgroup, &none, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&shares, &cgroup);
		if (!s)
			return false;
	}
	bpf_spin_lock(&s->lock);
	s->held++;
	bpf_spin_unlock(&s->lock);
	return true;
}

/* Counts one slot less, of an entry and of all above it. Slots that another version gave
 * out before there were shares are not counted, and not below nothing.
 */
GLOBAL int share_drop(__u64 key)
{
	for (int level = 0; level <= MAX_LEVELS + 1; level++) {
		struct share *s = bpf_map_lookup_elem(&shares, &key);
		__u64 parent;

		if (!s)
			break;
		bpf_spin_lock(&s->lock);
		if (s->held)
			s->held--;
		parent = s->parent;
		bpf_spin_unlock(&s->lock);
		if (!key)
			break;
		key = parent;
	}
	return 0;
}

/* Gives back one slot of the processes in a cgroup. */
static __always_inline void share_give(__u64 cgroup)
{
	share_drop(~cgroup);
}

/* Counts one more slot of the current task's cgroup, and of each above it. It returns 0 if
 * one of them holds its share.
 */
GLOBAL int share_take(void)
{
	__u64 last = 0, own = bpf_get_current_cgroup_id();

	if (!share_allows(own))
		return 0;
	if (!share_held(~own))
		bpf_ringbuf_output(&arrivals, &own, sizeof(own), 0);
	if (!share_add(0, 0))
		return 0;
	for (__u32 level = 1; level < MAX_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			break;
		if (!share_add(id, last))
			goto undo;
		last = id;
	}
	if (share_add(~own, last))
		return 1;
undo:
	share_drop(last);
	return 0;
}

#endif
