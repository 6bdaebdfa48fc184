/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program that answers queries from the entries of hits.h. It runs on egress of the host's
 * end of the veth pair, turns the query into its reply, and redirects that to ingress of the
 * same interface: the host receives it as if the listener had sent it.
 * Queries that it does not answer continue to the listener.
 */
#ifndef SOTTO_REPEAT_H
#define SOTTO_REPEAT_H

#include "hitquery.h"
#include "hitreply.h"
#include "hits.h"

#include <linux/pkt_cls.h>

/* Returns the words of a key with a name of that length. The rest of them is zero. */
static __always_inline __u32 key_words(__u32 name_len)
{
	return (offsetof(struct hit_key, name) + name_len + 7) / 8;
}

/* Stores the hash of the key, see read_name. */
LOCAL int hash_key(struct hit_scratch *s, __u64 seed)
{
	const __u64 *word = (const void *)&s->key;
	__u32 words = key_words(s->name_len);
	__u64 h = seed;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < sizeof(s->key) / 8; i++) {
		if (i >= words)
			break;
		h = (h ^ word[i]) * HIT_MULTIPLIER;
		h ^= h >> 32;
	}
	s->hash = h;
	return 0;
}

/* A name ends with the root, so that a longer one differs within the words of a shorter one. */
static __always_inline bool same_hit_key(const struct hit_key *a, const struct hit_scratch *s)
{
	const __u64 *x = (const void *)a, *y = (const void *)&s->key;
	__u32 words = key_words(s->name_len);
	__u64 differ = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < sizeof(*a) / 8; i++) {
		if (i >= words)
			break;
		differ |= x[i] ^ y[i];
	}
	return !differ;
}

/* Returns the way of the index for the hash in s, or 0. */
static __always_inline __u64 find_way(const struct hit_scratch *s)
{
	__u32 bucket = s->hash & index_mask;
	const struct hit_bucket *b = bpf_map_lookup_elem(&hit_index, &bucket);
	__u64 found = 0, tag = s->hash >> 32 | 1;

	if (!b)
		return 0;
	for (int i = 0; i < HIT_WAYS; i++) {
		__u64 way = *(volatile const __u64 *)&b->way[i];

		if (way >> 32 == tag)
			found = way;
	}
	return found;
}

/* Copies what follows the question to the scratch memory, in words: the entry and the memory are
 * zero after their ends. max is the length of from.
 */
static __always_inline void copy_rest(struct hit_scratch *s, const __u8 *from, __u32 max, __u32 len)
{
	const __u64 *word = (const void *)from;
	__u64 *to = (void *)s->reply;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < max / 8; i++) {
		if (i * 8 >= len)
			break;
		to[i] = word[i];
	}
}

/* Returns the entry for the key, and copies its records. */
static __always_inline struct hit *find_hit(struct hit_scratch *s, __u64 seed)
{
	struct short_hit *sh;
	struct long_hit *lh;
	__u64 way;
	__u32 at;

	hash_key(s, seed);
	way = find_way(s);
	if (!way)
		return 0;
	at = way;
	if (at & HIT_IS_LONG) {
		at &= ~HIT_IS_LONG;
		lh = bpf_map_lookup_elem(&long_hits, &at);
		if (!lh || !same_hit_key(&lh->head.key, s))
			return 0;
		copy_rest(s, lh->rest, HIT_LONG, lh->head.len);
		return &lh->head;
	}
	sh = bpf_map_lookup_elem(&short_hits, &at);
	if (!sh || !same_hit_key(&sh->head.key, s))
		return 0;
	copy_rest(s, sh->rest, HIT_SHORT, sh->head.len);
	return &sh->head;
}

/* Returns bpf_ktime_get_boot_ns, up to a tick ago (1 to 10 ms): reading the clock is slow on a
 * virtual machine. It may be the time before an entry was stored.
 */
static __always_inline __u64 coarse_boot_ns(struct hit_scratch *s)
{
	__u64 jiffies = bpf_jiffies64();

	if (s->jiffies != jiffies) {
		s->boot = bpf_ktime_get_boot_ns();
		s->jiffies = jiffies;
	}
	return s->boot;
}

/* Reports whether an entry may be used. In the last part of its lifetime user space answers,
 * and refreshes it, if there is one that works.
 */
static __always_inline bool is_fresh(const struct hit *h, const struct hit_state *c, __u64 boot)
{
	struct guard *g;

	if (h->generation != *(volatile __u64 *)&c->generation || boot >= h->expires)
		return false;
	if (boot < h->refresh)
		return true;
	g = guard_state();
	return g && (__s64)(bpf_ktime_get_ns() - g->alive) > (__s64)HIT_DEAD_NS;
}

/* Subtracts the entry's age from the TTLs. */
LOCAL int count_down(struct hit_scratch *s, const struct hit *h, __u32 age)
{
	for (__u32 i = 0; i < HIT_RECORDS; i++) {
		__u32 at, ttl;

		if (i >= h->ttl_count)
			break;
		at = h->ttls[i];
		if (at > HIT_LONG - 4)
			break;
		ttl = (__u32)s->reply[at] << 24 | s->reply[at + 1] << 16 | s->reply[at + 2] << 8 |
		      s->reply[at + 3];
		ttl = ttl > age ? ttl - age : 0;
		s->reply[at] = ttl >> 24;
		s->reply[at + 1] = ttl >> 16;
		s->reply[at + 2] = ttl >> 8;
		s->reply[at + 3] = ttl;
	}
	return 0;
}

/* Reports a reply to a trace. */
static __always_inline void hit_store(const struct hit_query *q, const struct hit_scratch *s,
				      __u8 rcode)
{
	struct hit_event *e = bpf_ringbuf_reserve(&hit_events, sizeof(*e), 0);

	if (!e) {
		hit_count(HIT_EVENT_LOST);
		return;
	}
	e->time = q->now;
	e->took = bpf_ktime_get_ns() - q->now;
	__builtin_memcpy(e->client, q->src, sizeof(e->client));
	e->slot = q->slot;
	e->port = q->sport;
	__builtin_memcpy(&e->id, s->query, sizeof(e->id));
	e->qtype = s->key.qtype;
	e->qclass = s->key.qclass;
	e->name_len = q->name_len;
	e->rcode = rcode;
	e->is6 = !is_mapped(q->dst);
	__builtin_memcpy(e->name, s->query + DNS_HEADER, sizeof(e->name));
	bpf_ringbuf_submit(e, 0);
}

/* Counts a reply for its entry and its slot. */
static __always_inline void hit_done(struct hit_slot *slot, struct hit *h)
{
	__sync_fetch_and_add(&h->count, 1);
	__sync_fetch_and_add(h->rcode ? &slot->nxdomain : &slot->noerror, 1);
}

/* Answers from an entry. The verdict is HIT_ANSWERED if the packet is the reply. */
static __always_inline enum hit_verdict repeat(struct __sk_buff *skb, struct hit_scratch *s,
					       struct hit_query *q, const struct hit_state *c,
					       struct hit_slot *slot)
{
	__u64 boot = coarse_boot_ns(s);
	struct hit *h = find_hit(s, c->seed);
	__u32 rest, diff;

	if (!h)
		return HIT_UNKNOWN;
	if (!is_fresh(h, c, boot))
		return HIT_EXPIRING;
	rest = h->len;
	count_down(s, h, boot > h->stored ? (boot - h->stored) / SECOND_NS : 0);
	if (q->edns)
		rest = append_opt(s, q, rest);
	if (rest < 1 || rest > HIT_LONG + DNS_OPT || q->end + rest > q->limit)
		return HIT_TOO_LARGE;
	diff = change_payload(s, q, h, rest);
	if (bpf_skb_change_tail(skb, q->udp + UDP_HEADER + q->end + rest, 0))
		return HIT_NO_MEMORY;
	if (!write_reply(skb, s, q, rest, diff))
		return HIT_LOST;
	skb->mark = 0; /* of the client's socket; a packet of the listener has none */
	skb->tc_index = answer_tag;
	hit_done(slot, h);
	if (q->now)
		hit_store(q, s, h->rcode);
	return HIT_ANSWERED;
}

/* Answers a query, or says why not. */
static __always_inline enum hit_verdict answer(struct __sk_buff *skb, struct hit_scratch *s)
{
	struct hit_query q = {};
	struct hit_slot *slot;
	struct hit_state *c;
	__u32 zero = 0;

	if (!read_datagram(skb, &q) || !in_prefix(q.dst) || is_of_bound(skb))
		return HIT_UNUSUAL;
	q.slot = slot_of(q.dst);
	c = bpf_map_lookup_elem(&hit_control, &zero);
	if (c && c->traced)
		q.now = bpf_ktime_get_ns();
	if (!c || !c->generation || q.slot < FIRST_SLOT)
		return HIT_NO_CLASS;
	slot = find_class(&q, c, &s->key);
	if (!slot)
		return HIT_NO_CLASS;
	if (!read_message(skb, &q, s))
		return HIT_UNUSUAL;
	return repeat(skb, s, &q, c, slot);
}

/* A packet to the listener. */
static __always_inline int answer_packet(struct __sk_buff *skb)
{
	enum hit_verdict v = HIT_BUSY;
	struct hit_scratch *s;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&hit_scratch, &zero);
	if (!s)
		return TC_ACT_UNSPEC;
	if (!*(volatile __u32 *)&s->busy) {
		*(volatile __u32 *)&s->busy = 1;
		v = answer(skb, s);
		*(volatile __u32 *)&s->busy = 0;
	}
	hit_count(v);
	if (v == HIT_ANSWERED)
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return v == HIT_LOST ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#endif
