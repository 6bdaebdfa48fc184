/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which slots a socket holds. A packet to a virtual address belongs to the workload that
 * the address was given out for; a socket may send one only while it holds that slot.
 *
 * A hook on connect runs before the kernel connects, and does not learn how that ends. So a
 * socket holds two slots at most: the one that it is connected to now, and the one that it
 * is about to be connected to. What it was connected to is known at its next connect.
 */
#ifndef SOTTO_HOLDS_H
#define SOTTO_HOLDS_H

#include "classify.h"
#include "slots.h"

/* The slot that a socket was connected to last, or tried to; 0: none. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} connected SEC(".maps");

/* The slot that it was connected to before, and still is where that failed. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} replaced SEC(".maps");

/* When the hook for unconnected sends last saw a socket. A datagram that is sent in pieces
 * (MSG_MORE) may leave long after that, when its slot means something else.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} sent SEC(".maps");

/* The address that a socket is connected to. All words are read, and volatile, before one
 * family's are chosen: the compiler would choose between addresses of words otherwise, and
 * the verifier wants constant offsets.
 */
static __always_inline void peer_of(struct bpf_sock *sk, __be32 addr[4])
{
	volatile struct bpf_sock *s = sk;
	__be32 v4 = s->dst_ip4;
	__be32 v6[4] = {s->dst_ip6[0], s->dst_ip6[1], s->dst_ip6[2], s->dst_ip6[3]};
	bool is6 = s->family == FAMILY_INET6;

	addr[0] = is6 ? v6[0] : 0;
	addr[1] = is6 ? v6[1] : 0;
	addr[2] = is6 ? v6[2] : bpf_htonl(0xffff);
	addr[3] = is6 ? v6[3] : v4;
}

/* The slot that a socket is connected to, as the kernel sees it, or 0. */
static __always_inline __u32 peer_slot(struct bpf_sock *sk)
{
	__be32 addr[4];

	if (!sk->dst_port || sk->state == TCP_STATE_CLOSE)
		return 0;
	peer_of(sk, addr);
	return slot_of(addr);
}

/* Lets go of a slot. */
static __always_inline void hold_drop(__u32 *hold)
{
	__u32 idx = hold ? *hold : 0;

	if (!idx)
		return;
	*hold = 0;
	slot_release(idx);
}

/* Before a connect: the socket holds what it is really connected to, in `replaced`, and
 * nothing else. It reports false if there is no memory for that.
 */
static __always_inline bool hold_actual(struct bpf_sock *sk)
{
	__u32 *hold = sk ? bpf_sk_storage_get(&connected, sk, 0, 0) : 0;
	__u32 *old, actual;

	if (!hold)
		return true; /* its first connect */
	actual = peer_slot(sk);
	old = bpf_sk_storage_get(&replaced, sk, 0, 0);
	if (old && *old != actual)
		hold_drop(old);
	if (*hold != actual || (old && *old)) { /* one reference is enough */
		hold_drop(hold);
		return true;
	}
	if (!*hold)
		return true;
	old = bpf_sk_storage_get(&replaced, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!old)
		return false;
	*old = *hold; /* in this order, in which a recount looks at the two */
	*hold = 0;
	return true;
}

/* Takes a slot for a socket that connects. It returns 0 if there is none, and the socket
 * keeps what it had.
 */
static __always_inline __u32 hold_next(struct bpf_sock *sk, const struct key *key)
{
	__u32 *hold = sk ? bpf_sk_storage_get(&connected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	__u32 *old, idx;

	if (!hold) {
		count(COUNT_NO_MEMORY);
		return 0;
	}
	idx = slot_acquire(key, hold);
	old = bpf_sk_storage_get(&replaced, sk, 0, 0);
	if (idx && old && *old == idx)
		hold_drop(old); /* one reference is enough */
	return idx;
}

/* Notes that a datagram of an unconnected socket is on its way. It reports false if there
 * is no memory for that.
 */
static __always_inline bool hold_briefly(struct bpf_sock *sk)
{
	__u64 *at = sk ? bpf_sk_storage_get(&sent, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (at)
		*at = bpf_ktime_get_ns();
	return at;
}

/* Reports whether a packet of the socket to a virtual address is on account of a slot that it
 * holds; asks says that it carries a query.
 * Connects of two threads can leave a socket connected to what neither holds any more.
 */
static __always_inline bool holds_slot(struct bpf_sock *sk, const __be32 dst[4], bool stream,
				       bool asks)
{
	__be32 peer[4];
	__u32 idx = slot_of(dst), *hold;
	__u64 *at;

	peer_of(sk, peer);
	if (stream || (sk->dst_port && peer[0] == dst[0] && peer[1] == dst[1] &&
		       peer[2] == dst[2] && peer[3] == dst[3])) {
		hold = bpf_sk_storage_get(&connected, sk, 0, 0);
		if (!hold || *hold != idx)
			hold = bpf_sk_storage_get(&replaced, sk, 0, 0);
		if (!idx || !hold || *hold != idx)
			return false;
		if (asks)
			slot_sent(idx);
		return true;
	}
	at = bpf_sk_storage_get(&sent, sk, 0, 0);
	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)(linger_ns / 2);
}

#endif
