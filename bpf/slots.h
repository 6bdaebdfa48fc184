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
	__u32 refs; /* connected sockets */
	__u32 zero;
	__u64 last_send; /* of an unconnected socket; 0: none yet */
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

/* Slots held, by cgroup. User space removes those of cgroups that are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u64);
	__type(value, __u64);
} quota SEC(".maps");

static __always_inline bool same_key(const struct key *a, const struct key *b)
{
	return a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] &&
	       a->addr[3] == b->addr[3] && a->port == b->port && a->cgroup == b->cgroup;
}

/* Counts one more slot of the cgroup. Several CPUs may pass the check at once: the
 * quota is exact up to their number, which is enough to keep one from starving all.
 */
static __always_inline bool quota_take(__u64 cgroup)
{
	__u64 *held = bpf_map_lookup_elem(&quota, &cgroup);

	if (!held) {
		__u64 none = 0;

		bpf_map_update_elem(&quota, &cgroup, &none, BPF_NOEXIST);
		held = bpf_map_lookup_elem(&quota, &cgroup);
		if (!held)
			return false; /* as many cgroups as slots: nothing is left to give */
	}
	if (*held >= quota_max)
		return false;
	__sync_fetch_and_add(held, 1);
	return true;
}

static __always_inline void quota_give(__u64 cgroup)
{
	__u64 *held = bpf_map_lookup_elem(&quota, &cgroup);

	if (held)
		__sync_fetch_and_add(held, -1);
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
		if (connected)
			s->refs++;
		else
			s->last_send = now;
	}
	bpf_spin_unlock(&s->lock);
	return ok;
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
 * hint that another CPU replaced meanwhile is harmless, as told above.
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
	quota_give(key.cgroup);
}

/* A connected socket leaves slot idx. */
static __always_inline void slot_release(__u32 idx)
{
	struct slot *s = bpf_map_lookup_elem(&slots, &idx);
	__u64 now = bpf_ktime_get_ns();
	bool last = false;

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	if (s->used && s->refs) {
		s->refs--;
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
	bpf_spin_unlock(&s->lock);
	bpf_map_push_elem(&free_slots, &idx, 0);
	quota_give(cgroup);
	count(COUNT_SLOT_RACE);
}

/* Returns a slot that stands for key, with a reference for a connected socket, or
 * touched for an unconnected one; 0 when there is none. It tries a fixed number of
 * times: no CPU waits for another.
 */
static __always_inline __u32 slot_acquire(const struct key *key, bool connected)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 *hint = bpf_map_lookup_elem(&forward, key);
	/* A hint that turned out stale is replaced; its slot is on its way back. */
	__u64 flags = hint ? BPF_ANY : BPF_NOEXIST;
	__u32 idx, winner;

	if (hint) {
		idx = *hint;
		if (slot_use(idx, key, connected, now))
			return idx;
	}
	if (!quota_take(key->cgroup)) {
		count(COUNT_OVER_QUOTA);
		return 0;
	}
	if (bpf_map_pop_elem(&free_slots, &idx)) {
		quota_give(key->cgroup);
		count(COUNT_NO_SLOT);
		return 0;
	}
	if (!slot_fill(idx, key, connected, now)) /* the reverse first */
		return 0;
	if (!bpf_map_update_elem(&forward, key, &idx, flags)) {
		count(COUNT_SLOT_NEW);
		return idx;
	}
	hint = bpf_map_lookup_elem(&forward, key);
	if (hint) {
		winner = *hint;
		if (slot_use(winner, key, connected, now)) {
			slot_abandon(idx, key->cgroup);
			return winner;
		}
	}
	/* The winner is gone already. Without a hint, should this fail, the slot
	 * still serves its own socket.
	 */
	bpf_map_update_elem(&forward, key, &idx, BPF_ANY);
	count(COUNT_SLOT_NEW);
	return idx;
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

/* Collects one slot, for user space, which found it idle and calls this with
 * BPF_PROG_TEST_RUN: it runs on no interface. The packet holds, after room for an
 * Ethernet header, the slot. Programs that are made to be called (SEC("syscall")) need
 * 5.14; a loop over many slots is more than the verifier of 5.10 walks through.
 */
struct collect {
	__u8 ethernet[16];
	__u32 idx;
	__u32 zero;
};

SEC("tc")
int sotto_collect(struct __sk_buff *skb)
{
	struct collect *c = (void *)(long)skb->data;

	if ((void *)(c + 1) > (void *)(long)skb->data_end)
		return 0;
	return slot_collect(c->idx, bpf_ktime_get_ns());
}

#endif
