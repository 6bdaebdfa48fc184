/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Slots: virtual listener addresses, each standing for one origin.
 *
 * The reverse (origins, slot -> origin) is the truth. The forward map is a hint
 * that is checked against it under the slot's lock, so that a lost or doubled
 * hint costs a slot for a while and never an answer from the wrong nameserver.
 * A slot is in the queue, or in use, or in the hands of the one program run that
 * took it from either; nothing evicts.
 */
#ifndef SOTTO_SLOTS_H
#define SOTTO_SLOTS_H

#include "counters.h"
#include "settings.h"
#include "shares.h"

/* What a client meant, and who it is. IPv4 addresses are mapped, so that an
 * AF_INET6 socket shares its slots with an AF_INET one. No implicit padding: it
 * is a hash key.
 */
struct key {
	__be32 addr[4];
	__be16 port;
	__u16 zero16;
	__u32 zero32;
	__u64 cgroup;
};

struct slot {
	struct bpf_spin_lock lock;
	__u32 used;
	__u32 refs;	 /* sockets that are connected, or were about to be */
	__u32 changes;	 /* of refs, so that a recount knows that none happened meanwhile */
	__u64 last_send; /* 0: none yet */
};

/* Apart from struct slot because user space maps this array, and the kernel maps
 * none that holds a lock. Kept after the slot is free, for late replies.
 */
struct origin {
	struct key key;
	__u32 gen; /* odd while key changes: user space reads without the lock */
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__type(key, struct key);
	__type(value, __u32);
} forward SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct origin);
} origins SEC(".maps");

/* First in, first out: a slot rests for as long as possible before it means
 * something else. Filled by user space, once.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, MAX_SLOTS);
	__uint(value_size, sizeof(__u32));
} free_slots SEC(".maps");

static __always_inline bool same_key(const struct key *a, const struct key *b)
{
	return a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] &&
	       a->addr[3] == b->addr[3] && a->port == b->port && a->cgroup == b->cgroup;
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

/* Notes that a connected socket sent something by slot idx: the slot keeps its meaning until
 * the listener has read it, however soon the socket is closed.
 */
static __always_inline void slot_sent(__u32 idx)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);

	if (s)
		s->last_send = bpf_ktime_get_ns();
}

/* Writes the reverse of a slot just popped: nobody else uses it, but a late reply
 * may be looking it up. Three critical sections, because a lock's release and next
 * acquisition order the generation against the key also for those who take no lock.
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

/* Whether no send can still be waiting for its reply. Signed: another CPU's send
 * may be younger than now.
 */
static __always_inline bool slot_idle(const struct slot *s, __u64 now)
{
	return !s->last_send || (__s64)(now - s->last_send) >= (__s64)linger_ns;
}

/* Gives back a slot that the caller just took out of use under its lock. The hint
 * goes first: once the slot is in the queue it may mean something else. Deleting a
 * hint that another CPU replaced meanwhile is harmless: see above.
 */
static __always_inline void slot_retire(__u32 idx)
{
	struct origin *o = bpf_map_lookup_elem(&origins, &idx);
	struct key key;
	__u32 *hint;

	if (!o)
		return;
	key = o->key; /* whoever took it out of use is alone with it */
	hint = bpf_map_lookup_elem(&forward, &key);
	if (hint && *hint == idx)
		bpf_map_delete_elem(&forward, &key);
	bpf_map_push_elem(&free_slots, &idx, 0);
	share_give(key.cgroup);
}

/* A connected socket leaves slot idx. */
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
		slot_retire(idx);
		count(COUNT_SLOT_FREED);
	}
	return 0;
}

/* Takes slot idx out of use if it idles. Where the decision is made matters: under
 * the same lock that a connect takes.
 */
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
		slot_retire(idx);
		count(COUNT_SLOT_COLLECTED);
	}
	return idle;
}

/* The loser of a race gives back a slot that no hint ever named. */
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
	share_give(cgroup);
	count(COUNT_SLOT_RACE);
}

/* Has hold name slot idx again, which it did not for a moment: a recount that began before
 * this is void.
 */
static __always_inline void slot_keep(__u32 idx, __u32 *hold)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);

	*hold = idx;
	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	s->changes++;
	bpf_spin_unlock(&s->lock);
}

/* Takes a slot from the queue for key. It returns 0 if there is none. */
static __always_inline __u32 slot_new(const struct key *key, __u32 *hold, __u64 now)
{
	__u32 idx;

	if (!share_take()) {
		count(COUNT_OVER_QUOTA);
		return 0;
	}
	if (bpf_map_pop_elem(&free_slots, &idx)) {
		share_give(key->cgroup);
		count(COUNT_NO_SLOT);
		return 0;
	}
	if (hold)
		*hold = idx;
	if (!slot_fill(idx, key, hold, now)) /* the reverse first */
		return 0;
	return idx;
}

/* Returns a slot that stands for key, touched for an unconnected socket, or with a
 * reference for one that connects; 0 when there is none. It tries a fixed number of times:
 * no CPU waits for another. hold is where the socket keeps its reference. It is written
 * before the reference is counted, so that a recount never finds fewer holders than there
 * are.
 */
static __always_inline __u32 slot_acquire(const struct key *key, __u32 *hold)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 *hint = bpf_map_lookup_elem(&forward, key);
	/* A hint that turned out stale is replaced; its slot is on its way back. */
	__u64 flags = hint ? BPF_ANY : BPF_NOEXIST;
	__u32 idx, winner;

	if (hint) {
		idx = *hint;
		if (hold)
			*hold = idx;
		if (slot_use(idx, key, hold, now))
			return idx;
	}
	idx = slot_new(key, hold, now);
	if (!idx)
		goto none;
	if (!bpf_map_update_elem(&forward, key, &idx, flags)) {
		count(COUNT_SLOT_NEW);
		return idx;
	}
	hint = bpf_map_lookup_elem(&forward, key);
	if (hint) {
		winner = *hint;
		if (hold)
			*hold = winner;
		if (slot_use(winner, key, hold, now)) {
			slot_abandon(idx, key->cgroup);
			return winner;
		}
		if (hold)
			slot_keep(idx, hold);
	}
	/* The winner is given back already. Without a hint, should this fail, the slot
	 * still serves its own socket.
	 */
	bpf_map_update_elem(&forward, key, &idx, BPF_ANY);
	count(COUNT_SLOT_NEW);
	return idx;
none:
	if (hold)
		*hold = 0;
	return 0;
}

/* Reads what slot idx stands for, or last stood for. */
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
