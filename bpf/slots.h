/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Slots: virtual listener addresses, each standing for one workload's original destination.
 *
 * The reverse map (origins, slot -> key) is authoritative. The forward map contains hints that
 * are checked against it under the slot's lock: a lost or duplicate hint costs a slot for a
 * while, but never returns an answer from the wrong nameserver. A slot is in the queue, or in
 * use, or owned by the one program run that removed it from either. Slots are never evicted.
 */
#ifndef SOTTO_SLOTS_H
#define SOTTO_SLOTS_H

#include "counters.h"
#include "origins.h"
#include "settings.h"
#include "shares.h"

struct slot {
	struct bpf_spin_lock lock;
	__u32 used;
	__u32 refs;	 /* sockets that are connected, or about to be */
	__u32 changes;	 /* number of changes to refs: a recount detects concurrent ones */
	__u64 last_send; /* 0: none yet */
};

struct forward_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__type(key, struct key);
	__type(value, __u32);
};
extern struct forward_map forward SEC(".maps");

struct slots_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
};
extern struct slots_map slots SEC(".maps");

/* First in, first out: a slot stays unused for as long as possible before it is reused. User
 * space fills the queue once.
 */
struct free_slots_map {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, MAX_SLOTS);
	__uint(value_size, sizeof(__u32));
};
extern struct free_slots_map free_slots SEC(".maps");

static __always_inline bool same_key(const struct key *a, const struct key *b)
{
	return a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] &&
	       a->addr[3] == b->addr[3] && a->port == b->port && a->netns == b->netns &&
	       a->cgroup == b->cgroup;
}

/* Uses slot idx if it (still) stands for key. */
static __always_inline bool slot_use(__u32 idx, const struct key *key, bool connected, __u64 now)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	struct origin *o = bpf_map_lookup_elem(&origins, &idx);
	bool ok = false;

	if (!s || !o)
		return false;
	bpf_spin_lock(&s->lock);
	if (s->used && same_key(&o->key, key)) {
		ok = true;
		if (connected) {
			s->refs++;
			s->changes++;
		} else {
			s->last_send = now;
		}
	}
	bpf_spin_unlock(&s->lock);
	return ok;
}

/* The clock as it was when the current tick was first seen. */
struct tick {
	__u64 jiffies;
	__u64 ns; /* bpf_ktime_get_ns */
};

/* Per CPU: another one could read the two words in the opposite order. */
struct ticks_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tick);
};
extern struct ticks_map ticks SEC(".maps");

/* Returns bpf_ktime_get_ns, up to a tick ago (1 to 10 ms), or longer if the program was preempted.
 * On a virtual machine reading the clock costs about as much as the rest of the guard.
 */
static __always_inline __u64 coarse_ns(void)
{
	__u64 jiffies = bpf_jiffies64();
	__u32 zero = 0;
	volatile struct tick *t = bpf_map_lookup_elem(&ticks, &zero);

	if (!t)
		return bpf_ktime_get_ns();
	if (t->jiffies != jiffies) {
		t->ns = bpf_ktime_get_ns();
		t->jiffies = jiffies;
	}
	return t->ns;
}

/* Records a send of a connected socket, so that the slot outlives the socket until the
 * listener has read the query.
 */
static __always_inline void slot_sent(__u32 idx)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);

	if (s)
		s->last_send = coarse_ns();
}

/* Writes the key of a slot just removed from the queue: no other program uses it, but the hook
 * of a late reply may read it. Three critical sections, because a lock's release and next
 * acquisition order the generation against the key also for readers without the lock.
 */
static __always_inline bool slot_fill(__u32 idx, const struct key *key, bool connected, __u64 now)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	struct origin *o = bpf_map_lookup_elem(&origins, &idx);

	if (!s || !o)
		return false;
	bpf_spin_lock(&s->lock);
	o->gen |= 1;
	bpf_spin_unlock(&s->lock);

	bpf_spin_lock(&s->lock);
	o->key.addr[0] = key->addr[0];
	o->key.addr[1] = key->addr[1];
	o->key.addr[2] = key->addr[2];
	o->key.addr[3] = key->addr[3];
	o->key.port = key->port;
	o->key.netns = key->netns;
	o->key.cgroup = key->cgroup;
	bpf_spin_unlock(&s->lock);

	bpf_spin_lock(&s->lock);
	o->gen++;
	s->used = 1;
	s->refs = connected;
	s->changes++;
	s->last_send = connected ? 0 : now;
	bpf_spin_unlock(&s->lock);
	return true;
}

/* Reports whether no send can still be waiting for its reply. Signed: another CPU's send may be
 * later than now.
 */
static __always_inline bool slot_idle(const struct slot *s, __u64 now)
{
	return !s->last_send || (__s64)(now - s->last_send) >= (__s64)linger_ns;
}

/* Frees a slot whose use the caller just cleared under its lock. The hint is deleted first:
 * once the slot is in the queue it may get another key. Deleting a hint that another CPU
 * replaced meanwhile is harmless, as it is only a hint.
 */
static __always_inline void slot_free(__u32 idx)
{
	struct origin *o = bpf_map_lookup_elem(&origins, &idx);
	struct key key;
	__u32 *hint;

	if (!o)
		return;
	key = o->key; /* the caller alone owns the slot */
	hint = bpf_map_lookup_elem(&forward, &key);
	if (hint && *hint == idx)
		bpf_map_delete_elem(&forward, &key);
	bpf_map_push_elem(&free_slots, &idx, 0);
	share_release(key.cgroup);
}

/* Drops a socket's reference to slot idx. */
GLOBAL int slot_release(__u32 idx)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	__u64 now = bpf_ktime_get_ns();
	bool last = false;

	if (!s)
		return 0;
	bpf_spin_lock(&s->lock);
	if (s->used && s->refs) {
		s->refs--;
		s->changes++;
		if (!s->refs && slot_idle(s, now)) {
			s->used = 0;
			last = true;
		}
	}
	bpf_spin_unlock(&s->lock);
	if (last) {
		slot_free(idx);
		count(COUNT_SLOT_FREED);
	}
	return 0;
}

/* Frees slot idx if it is idle. Decided under the lock that a connect takes. */
static __always_inline bool slot_collect(__u32 idx, __u64 now)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	bool idle = false;

	if (!s)
		return false;
	bpf_spin_lock(&s->lock);
	if (s->used && !s->refs && slot_idle(s, now)) {
		s->used = 0;
		idle = true;
	}
	bpf_spin_unlock(&s->lock);
	if (idle) {
		slot_free(idx);
		count(COUNT_SLOT_COLLECTED);
	}
	return idle;
}

/* Frees a slot that no hint ever named: another program was first. */
static __always_inline void slot_abandon(__u32 idx, __u64 cgroup)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	s->used = 0;
	s->refs = 0;
	s->changes++;
	bpf_spin_unlock(&s->lock);
	bpf_map_push_elem(&free_slots, &idx, 0);
	share_release(cgroup);
	count(COUNT_SLOT_RACE);
}

/* Writes slot idx back to hold, which named another slot for a moment. A recount that started
 * before this is invalid.
 */
static __always_inline void slot_hold_again(__u32 idx, __u32 *hold)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);

	*hold = idx;
	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	s->changes++;
	bpf_spin_unlock(&s->lock);
}

/* Takes a slot from the queue for key. It returns 0 if there is none, and the reason in why. */
static __always_inline __u32 slot_new(const struct key *key, __u32 *hold, __u64 now,
				      enum counter *why)
{
	__u32 idx;

	if (!share_acquire()) {
		*why = COUNT_OVER_QUOTA;
		return 0;
	}
	*why = COUNT_NO_SLOT;
	if (bpf_map_pop_elem(&free_slots, &idx)) {
		share_release(key->cgroup);
		return 0;
	}
	if (hold)
		*hold = idx;
	if (!slot_fill(idx, key, hold, now)) /* before the hint */
		return 0;
	return idx;
}

/* Uses the slot that a hint names, if it stands for key. */
static __always_inline bool slot_use_hint(__u32 idx, const struct key *key, __u32 *hold, __u64 now)
{
	if (hold)
		*hold = idx;
	return slot_use(idx, key, hold, now);
}

/* Returns the slot to use after another program wrote a hint for key first: its slot, or the
 * new one in idx.
 */
static __always_inline __u32 slot_resolve_race(__u32 idx, const struct key *key, __u32 *hold,
					       __u64 now)
{
	__u32 *hint = bpf_map_lookup_elem(&forward, key);

	if (hint) {
		__u32 winner = *hint;

		if (slot_use_hint(winner, key, hold, now)) {
			slot_abandon(idx, key->cgroup);
			return winner;
		}
		if (hold)
			slot_hold_again(idx, hold);
	}
	/* The winner's slot is freed already. If this fails, there is no hint, and the slot
	 * still serves its own socket.
	 */
	bpf_map_update_elem(&forward, key, &idx, BPF_ANY);
	count(COUNT_SLOT_NEW);
	return idx;
}

/* Returns a slot that stands for key: with a new reference for a socket that connects, or
 * touched for an unconnected one (hold is null). It returns 0 if there is none, and the reason
 * in why. The number of attempts is fixed: no CPU waits for another. hold is where the socket
 * stores its reference. It is written before the reference is counted, so that a recount never
 * finds fewer holders than references.
 */
static __always_inline __u32 slot_acquire(const struct key *key, __u32 *hold, enum counter *why)
{
	__u64 now = coarse_ns();
	__u32 *hint = bpf_map_lookup_elem(&forward, key);
	/* A stale hint is replaced: its slot is being freed. */
	__u64 flags = hint ? BPF_ANY : BPF_NOEXIST;
	__u32 idx;

	*why = COUNT_FOREIGN; /* a relay without a slot */
	if (hint) {
		idx = *hint;
		if (slot_use_hint(idx, key, hold, now))
			return idx;
	}
	/* A relay uses slots of others, and never takes one for them. */
	idx = key->cgroup == bpf_get_current_cgroup_id() ? slot_new(key, hold, now, why) : 0;
	if (!idx) {
		if (hold)
			*hold = 0;
		return 0;
	}
	if (bpf_map_update_elem(&forward, key, &idx, flags))
		return slot_resolve_race(idx, key, hold, now);
	count(COUNT_SLOT_NEW);
	return idx;
}

/* Reads the key of slot idx: the current one, or the last one. */
static __always_inline bool slot_origin(__u32 idx, struct key *key)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	struct origin *o = bpf_map_lookup_elem(&origins, &idx);

	if (!s || !o)
		return false;
	bpf_spin_lock(&s->lock);
	*key = o->key;
	bpf_spin_unlock(&s->lock);
	return key->port != 0;
}

#endif
