/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which process a query is from. The hooks see the process but not yet the source port, which
 * the kernel chooses later. They store the process with the socket; the guard, which sees the
 * packet, publishes it by the source port.
 *
 * A wrong name is worse than none: the process of a socket that several processes use is
 * unknown, and each entry has the times from which and until which it is valid.
 */
#ifndef SOTTO_CALLERS_H
#define SOTTO_CALLERS_H

#include "address.h"
#include "kernel.h"
#include "packet.h"
#include "settings.h"

/* How long a packet may take from its socket to the listener, which compares times (Go:
 * senderDelay).
 */
#define SENDER_DELAY_NS 2000000000ULL

struct caller {
	__u32 pid; /* of the thread group, in the initial PID namespace; 0: unknown */
	__u32 uid; /* in the initial user namespace */
	__u64 comm[2];
};

/* The process that uses a socket for DNS, and the name of the thread that did so first. */
struct callers_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct caller);
};
extern struct callers_map callers SEC(".maps");

/* A slot belongs to one cgroup and network namespace, in which few sockets of a protocol have
 * the same port.
 */
struct sender_key {
	__u32 slot;
	__be16 port;
	__u16 protocol;
};

#define SENDER_IDS 4 /* a lookup sends two queries at once, and may repeat them */

struct sender {
	__be32 addr[4]; /* of the socket */
	__u64 since;	/* from when the listener may attribute queries to it */
	__u64 last;	/* when it last sent something */
	struct caller caller;
	/* Of its last queries. If NAT has replaced the address it may have replaced the port by
	 * that of another socket; the IDs are unlikely to be equal as well.
	 */
	__be16 ids[SENDER_IDS];
	__u32 sent; /* queries, that is IDs that were written */
	__u32 zero;
};

/* Who sent from a port, while user space watches. */
struct senders_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sender_key);
	__type(value, struct sender);
};
extern struct senders_map senders SEC(".maps");

/* When user space started to trace; 0: it does not. */
struct watch_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};
extern struct watch_map watch SEC(".maps");

/* Stores the current process as that of a socket. Once another process has used the socket its
 * process is unknown: their packets cannot be distinguished. is_known is false for relays,
 * which send the packets of other processes.
 */
static __always_inline void caller_store(struct bpf_sock *sk, bool is_known)
{
	struct caller now = {}, *c;

	if (!attributes || !sk)
		return;
	if (is_known) {
		now.pid = bpf_get_current_pid_tgid() >> 32;
		now.uid = (__u32)bpf_get_current_uid_gid();
		bpf_get_current_comm(now.comm, sizeof(now.comm));
	}
	c = bpf_sk_storage_get(&callers, sk, &now, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c) /* another thread has just created it */
		c = bpf_sk_storage_get(&callers, sk, 0, 0);
	if (c && (c->pid != now.pid || c->uid != now.uid))
		c->pid = 0;
}

static __always_inline bool is_same_sender(const struct sender *a, const struct sender *b)
{
	return a->caller.pid == b->caller.pid && a->caller.uid == b->caller.uid &&
	       a->caller.comm[0] == b->caller.comm[0] && a->caller.comm[1] == b->caller.comm[1] &&
	       a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] &&
	       a->addr[3] == b->addr[3];
}

/* Adds the ID of a query. Of a segment with less or more than one message, any two bytes. */
static __always_inline void sender_add_id(struct sender *s, struct __sk_buff *skb,
					  const struct packet *p)
{
	__u32 at = s->sent++ % SENDER_IDS;
	__be16 id = 0;

	load(skb, p, p->pos + (p->protocol == PROTO_TCP ? 2 : 0), &id, sizeof(id));
	s->ids[at] = id;
}

/* Publishes the process of a packet to a virtual address. If another one has sent from this
 * port so recently that the listener may still have to read its query, neither is known until
 * that has passed.
 */
static __always_inline void sender_store(struct __sk_buff *skb, const struct packet *p,
					 struct bpf_sock *sk)
{
	struct sender_key key = {slot_of(p->dst), p->sport, p->protocol};
	struct sender now = {}, *old;
	struct caller *c;
	__u32 zero = 0;
	__u64 *since = bpf_map_lookup_elem(&watch, &zero);

	if (!since || !*since || !p->dport || (p->protocol == PROTO_TCP && !has_payload(p)))
		return;
	c = sk ? bpf_sk_storage_get(&callers, sk, 0, 0) : 0;
	/* No hook sees who sends on a connected socket. Segments may leave in an interrupt. */
	if (c && knows_current && p->protocol == PROTO_UDP &&
	    c->pid != bpf_get_current_pid_tgid() >> 32)
		c->pid = 0;
	if (c && c->pid)
		now.caller = *c;
	__builtin_memcpy(now.addr, p->src, sizeof(now.addr));
	now.last = bpf_ktime_get_ns();
	now.since = now.last;
	old = bpf_map_lookup_elem(&senders, &key);
	if (old && old->last < *since) /* others may have sent between then and the start */
		old = 0;
	if (old && is_same_sender(old, &now)) {
		old->last = now.last;
		sender_add_id(old, skb, p);
		return;
	}
	if (old && (__s64)(now.last - old->last) < (__s64)SENDER_DELAY_NS)
		now.since += SENDER_DELAY_NS;
	sender_add_id(&now, skb, p);
	bpf_map_update_elem(&senders, &key, &now, BPF_ANY);
}

#endif
