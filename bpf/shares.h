/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Shares limit how many slots a workload may hold, so that no workload exhausts them.
 *
 * A cgroup counts with all cgroups below it, and may hold half of what its parent may hold
 * and its siblings do not hold. A user to whom a subtree is delegated therefore has one share,
 * however many cgroups it creates there, and a cgroup that needs its first slot finds half of
 * the rest free. Limits start below share_base: nothing above it is sealed. Processes in
 * share_base itself, or above it, have the share of one more cgroup below it.
 *
 * One command may hold all slots of its seal, and has no shares: the loops over levels are most
 * of what the verifier would follow when it starts.
 */
#ifndef SOTTO_SHARES_H
#define SOTTO_SHARES_H

#include "counters.h"
#include "settings.h"

/* Slots held in a cgroup and below it, at every level: the next process that adopts the map
 * may limit other levels. The parent is stored because a slot may be freed by a task of
 * another cgroup. Key 0 is the total. The complement of a cgroup's ID stands for the
 * processes in the cgroup itself.
 */
struct share {
	struct bpf_spin_lock lock;
	__u32 held;
	__u64 parent;
};

/* User space deletes the entries of removed cgroups. Larger than the number of slots: a
 * cgroup's entry remains while the cgroup exists.
 */
struct shares_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4 * MAX_SLOTS);
	__type(key, __u64);
	__type(value, struct share);
};
extern struct shares_map shares SEC(".maps");

/* Cgroups that took their first slot: user space looks up their paths while they exist. If
 * the buffer is full, the path is looked up later.
 */
struct arrivals_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
};
extern struct arrivals_map arrivals SEC(".maps");

/* The cgroups of users and services, with their level: all processes below one belong together. */
extern struct cgroup_set subtrees SEC(".maps");

/* These functions are GLOBAL because before 6.3 the verifier follows every value that an
 * inlined or static function may return, and the loops over levels would exceed its limit.
 */
GLOBAL int share_held(__u64 cgroup)
{
	struct share *s = bpf_map_lookup_elem(&shares, &cgroup);

	return s ? s->held : 0;
}

/* Returns the first level whose cgroups are limited. All levels are for a task outside of
 * share_base, which left the seal with a socket from there.
 */
GLOBAL int share_first_level(void)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(share_level);

	if (id == share_base)
		return share_level + 1;
	/* A sealed cgroup that is created again has another ID, and so has one above several. */
	for (__u32 i = 0; i < MAX_LEVELS; i++) {
		id = bpf_get_current_ancestor_cgroup_id(share_level + i);
		if (!id)
			break;
		if (bpf_map_lookup_elem(&sealed, &id))
			return share_level + 1;
	}
	return 1;
}

/* Reports whether one more slot is within a limit. held is part of parent, the slots of the
 * parent, which may hold allowed.
 */
static __always_inline bool share_fits(__u32 held, __u32 parent, __u32 allowed)
{
	if (quota_max)
		return held < quota_max;
	/* held < (allowed - siblings) / 2, where siblings = parent - held */
	return (__s32)held < (__s32)(allowed - parent);
}

/* Reports whether the current task's cgroup, and each limited one above it, may hold one
 * more slot. Several CPUs may pass at once, and exceed a share by up to their number.
 */
static __always_inline bool share_allows(__u64 own)
{
	__u32 parent = share_held(0), allowed = slot_count, first = share_first_level();
	bool limited = false;

	for (__u32 i = 0; i < MAX_LEVELS; i++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(first + i);
		__u32 held;

		if (!id)
			break; /* below the task's own cgroup */
		held = share_held(id);
		if (!share_fits(held, parent, allowed))
			return false;
		allowed = (allowed - parent + held) / 2;
		parent = held;
		limited = true;
	}
	return limited || share_fits(share_held(~own), parent, allowed);
}

/* Adds a slot to one entry. It returns 0 if there is no memory for the entry. */
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

/* Subtracts a slot from an entry and from all above it, but not below 0: slots from a version
 * without shares were never added.
 */
GLOBAL int share_subtract(__u64 key)
{
	if (one_command)
		return 0;
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

/* Levels of cgroups that are searched for the one of a user or service. A rootless container is
 * about six levels down; each level costs time at the start, in every program.
 */
#define SUBTREE_LEVELS 10

/* Reports whether a cgroup that holds a slot and the current task's cgroup are of the same user
 * or service.
 */
GLOBAL int share_subtree(__u64 cgroup)
{
	__u64 id = ~cgroup;

	if (one_command)
		return true;
	for (int level = 0; level <= SUBTREE_LEVELS; level++) {
		struct share *s = bpf_map_lookup_elem(&shares, &id);
		__u32 *at;

		if (!s || !id)
			break;
		id = s->parent;
		at = bpf_map_lookup_elem(&subtrees, &id);
		if (at && bpf_get_current_ancestor_cgroup_id(*at) == id)
			return true;
	}
	return false;
}

/* Counts one slot less for a cgroup and all above it. */
static __always_inline void share_release(__u64 cgroup)
{
	share_subtract(~cgroup);
}

/* Counts one slot more for the current task's cgroup and all above it. It returns 0 if one of
 * them holds its share already.
 */
GLOBAL int share_acquire(void)
{
	__u64 last = 0, own = bpf_get_current_cgroup_id();

	if (one_command) {
		bpf_ringbuf_output(&arrivals, &own, sizeof(own), 0);
		return 1;
	}
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
	share_subtract(last);
	return 0;
}

#endif
