/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which slots a socket holds. A packet to a virtual address belongs to the workload that the
 * address was assigned for; a socket may send one only while it holds that slot.
 *
 * A connect hook runs before the kernel connects, and does not learn the result. A socket
 * therefore holds up to two slots: the one that it is connected to, and the one that it is
 * about to connect to. Which of them it was connected to is known at its next connect.
 */
#ifndef SOTTO_HOLDS_H
#define SOTTO_HOLDS_H

#include "address.h"
#include "kernel.h"
#include "slots.h"

struct hold_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
};

/* The slot that a socket last connected to, or tried to; 0: none. */
extern struct hold_map connected SEC(".maps");

/* The slot that it was connected to before, and still is if the connect failed. */
extern struct hold_map replaced SEC(".maps");

/* When the hook for unconnected sends last saw a socket. A datagram that is sent in pieces
 * (MSG_MORE) may leave long after that, when its slot stands for another key.
 */
struct sent_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
};
extern struct sent_map sent SEC(".maps");

/* Sockets that last named a virtual address themselves (1), instead of a nameserver (0): relays
 * of user-mode networking. Their replies come from the address that they named.
 */
struct named_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
};
extern struct named_map named SEC(".maps");

/* Records that a socket named a virtual address. It returns false if there is no memory. */
static __always_inline bool named_store(struct bpf_sock *sk)
{
	__u32 *n = sk ? bpf_sk_storage_get(&named, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (n)
		*n = 1;
	return n;
}

/* Records that a socket named a nameserver. */
static __always_inline void named_clear(struct bpf_sock *sk)
{
	__u32 *n = sk ? bpf_sk_storage_get(&named, sk, 0, 0) : 0;

	if (n)
		*n = 0;
}

static __always_inline bool has_named(struct bpf_sock *sk)
{
	__u32 *n = sk ? bpf_sk_storage_get(&named, sk, 0, 0) : 0;

	return n && *n;
}

/* Reads the address that a socket is connected to. */
static __always_inline void peer_of(struct bpf_sock *sk, __be32 addr[4])
{
	volatile struct bpf_sock *s = sk;
	__be32 v4 = s->dst_ip4;
	__be32 v6[4] = {s->dst_ip6[0], s->dst_ip6[1], s->dst_ip6[2], s->dst_ip6[3]};

	choose_addr(addr, s->family == FAMILY_INET6, v4, v6);
}

/* Returns the slot that a socket is connected to according to the kernel, or 0. */
static __always_inline __u32 peer_slot(struct bpf_sock *sk)
{
	__be32 addr[4];

	if (!sk->dst_port || sk->state == TCP_STATE_CLOSE)
		return 0;
	peer_of(sk, addr);
	return slot_of(addr);
}

static __always_inline void hold_release(__u32 *hold)
{
	__u32 idx = hold ? *hold : 0;

	if (!idx)
		return;
	*hold = 0;
	slot_release(idx);
}

/* Prepares a connect: afterwards the socket holds the slot that it is really connected to, in
 * replaced, and no other. It returns false if there is no memory for that.
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
		hold_release(old);
	if (*hold != actual || (old && *old)) { /* one reference is enough */
		hold_release(hold);
		return true;
	}
	if (!*hold)
		return true;
	old = bpf_sk_storage_get(&replaced, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!old)
		return false;
	*old = *hold; /* a recount reads connected first */
	*hold = 0;
	return true;
}

/* Takes a slot for a socket that connects. It returns 0 if there is none, and the reason in why;
 * the socket keeps the one that it held.
 */
static __always_inline __u32 hold_next(struct bpf_sock *sk, const struct key *key,
				       enum counter *why)
{
	__u32 *hold = sk ? bpf_sk_storage_get(&connected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	__u32 *old, idx;

	if (!hold) {
		*why = COUNT_NO_MEMORY;
		return 0;
	}
	idx = slot_acquire(key, hold, why);
	old = bpf_sk_storage_get(&replaced, sk, 0, 0);
	if (idx && old && *old == idx)
		hold_release(old); /* one reference is enough */
	return idx;
}

/* Records the time of a send of an unconnected socket. It returns false if there is no memory
 * for that.
 */
static __always_inline bool sent_store(struct bpf_sock *sk)
{
	__u64 *at = sk ? bpf_sk_storage_get(&sent, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (at)
		*at = coarse_ns();
	return at;
}

/* Reports whether a socket holds the slot of a packet that it sends to dst. Connects of two
 * threads can leave a socket connected to an address whose slot it does not hold.
 */
static __always_inline bool holds_slot(struct bpf_sock *sk, const __be32 dst[4], bool stream,
				       bool has_query)
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
		if (has_query)
			slot_sent(idx);
		return true;
	}
	at = bpf_sk_storage_get(&sent, sk, 0, 0);
	return at && (__s64)(coarse_ns() - *at) < (__s64)(linger_ns / 2);
}

#endif
