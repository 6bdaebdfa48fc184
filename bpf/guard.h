/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The guard: what the hooks on sockets cannot catch.
 *
 * On sealed cgroups it stops plain queries that sockets send past the hooks: raw
 * ones, those connected before there was a seal. On the host's interfaces it stops
 * those of packet sockets and, where the whole host is sealed, what is forwarded; it
 * leads packets for the virtual prefix, which a socket pinned to an interface would
 * send onto a wire, to the listener (lead.h); and it keeps the prefix dead from outside.
 */
#ifndef SOTTO_GUARD_H
#define SOTTO_GUARD_H

#include "holds.h"
#include "lead.h"
#include "packet.h"
#include "slots.h"

#include <linux/pkt_cls.h>

/* How long after a let-through cgroup sent a packet it may be forwarded: from one
 * network namespace into the next takes microseconds.
 */
#define PASSED_NS 1000000000ULL

const volatile __u8 guards_host; /* plain packets of no socket here are stopped as well */

/* Of packets to virtual addresses that come from what runs on this machine. The host's NAT
 * may give one another destination, which must not get it. tc_index stays with a packet
 * from interface to interface, and unlike a mark no routing rule looks at it.
 */
const volatile __u16 virtual_tag;

/* Sealed cgroups, with their level below the root. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} sealed SEC(".maps");

/* A packet of an excluded cgroup, as it looks behind address translation. */
struct passing {
	__be32 dst[4];
	__be16 dport;
	__u16 protocol;
	__u32 id; /* DNS over UDP: ID and flags; TCP: the sequence number */
};

/* What excluded cgroups sent a moment ago. In another network namespace than the
 * host's (a container) a packet loses its socket on the way to the host's interface.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct passing);
	__type(value, __u64);
} passed SEC(".maps");

/* Whether the cgroup of the packet's socket, or one above it, is in the set. */
static __always_inline bool sent_from(struct __sk_buff *skb, void *set, __u64 levels)
{
	if (!levels || !skb->sk)
		return false;
	for (int level = 0; level < MAX_LEVELS; level++) {
		__u64 id;

		if (!(levels & (1ULL << level)))
			continue;
		id = bpf_skb_ancestor_cgroup_id(skb, level);
		if (!id)
			break; /* deeper than the socket's own */
		if (bpf_map_lookup_elem(set, &id))
			return true;
	}
	return false;
}

GLOBAL int sent_by_excluded(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct instance *set = bpf_map_lookup_elem(&settings, &zero);

	return set && sent_from(skb, &exclude, set->exclude_levels);
}

GLOBAL int sent_by_sealed(struct __sk_buff *skb)
{
	struct guard *g = guard_state();

	return g && sent_from(skb, &sealed, g->seal_levels);
}

/* p after read_ports. */
static __always_inline bool pass_key(struct __sk_buff *skb, const struct packet *p,
				     struct passing *key)
{
	__u32 at = p->head + (p->protocol == PROTO_TCP ? offsetof(struct tcphdr, seq) : 8);

	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->dst, p->dst, sizeof(key->dst));
	key->dport = p->dport;
	key->protocol = p->protocol;
	return !bpf_skb_load_bytes(skb, at, &key->id, sizeof(key->id));
}

/* Counts a reason, and reports whether what it is about is stopped, not only counted. */
GLOBAL int stop_if(enum counter why, __u32 drop)
{
	struct guard *g = guard_state();

	count(why);
	return g && g->drop & drop;
}

static __always_inline bool stop(enum counter why)
{
	return stop_if(why, DROP_PLAIN);
}

/* Reports whether p, whose ports were read, goes to a nameserver in the clear. */
static __always_inline bool is_plain(const struct packet *p)
{
	return is_sealed_port(p->dport) && !is_loopback(p->dst);
}

/* A segment without payload asks nothing. Those of a connection that Sotto ended
 * carry no socket any more, and an acknowledgement is owed to its other end; what
 * else comes without a query (a reset, the end of a connection from before the seal)
 * is not worth telling, nor sending.
 */
static __always_inline bool is_silent(const struct packet *p)
{
	return p->protocol == PROTO_TCP && !has_payload(p) && !(p->tcp_flags & TCP_SYN);
}

static __always_inline bool stop_silent(const struct packet *p, struct bpf_sock *sk)
{
	if (p->tcp_flags == TCP_ACK && (!sk || sk->type != TYPE_STREAM))
		return false;
	return stop(COUNT_STOPPED_SILENT);
}

/* Reports whether a packet to a virtual address is stopped: where its socket does not hold
 * the slot, the listener would take it for a query of the workload that does. A socket
 * that was closed holds nothing, and may still end its connection.
 */
static __always_inline bool stop_virtual(struct __sk_buff *skb, const struct packet *p,
					 struct bpf_sock *sk)
{
	struct guard *g = guard_state();
	bool stream = p->protocol == PROTO_TCP;

	if (g && g->drop & DROP_VIRTUAL)
		return stop_if(COUNT_STOPPED_UNHELD, DROP_VIRTUAL);
	if (!sk || is_own(sk) || sent_by_excluded(skb))
		return false;
	if (sk->type == TYPE_RAW)
		return stop_if(COUNT_STOPPED_MADE, DROP_UNHELD);
	if (stream && !has_payload(p) && !(p->tcp_flags & TCP_SYN))
		return false;
	if (!p->dport || holds_slot(sk, p->dst, stream, !stream || has_payload(p)))
		return false;
	return stop_if(COUNT_STOPPED_UNHELD, DROP_UNHELD);
}

/* Sealed sockets, of every network namespace. */
SEC("cgroup_skb/egress")
int sotto_guard_socket(struct __sk_buff *skb)
{
	struct packet p = {};
	struct bpf_sock *sk;
	bool is_read;

	if (!read_ip(skb, &p))
		return 1;
	is_read = read_ports(skb, &p);
	if (in_prefix(p.dst))
		return !stop_virtual(skb, &p, full_sock(skb));
	if (p.opaque && !is_loopback(p.dst) && !is_open())
		return !stop(COUNT_STOPPED_OPAQUE);
	if (!is_read || !is_plain(&p))
		return 1;
	sk = full_sock(skb);
	if ((sk && is_own(sk)) || is_open())
		return 1;
	if (sent_by_excluded(skb)) {
		struct passing key;
		__u64 now = bpf_ktime_get_ns();

		if (guards_host && pass_key(skb, &p, &key))
			bpf_map_update_elem(&passed, &key, &now, BPF_ANY);
		return 1;
	}
	if (is_group(p.dst))
		return skb->ifindex == LOOPBACK || !stop(COUNT_STOPPED_GROUP);
	if (is_silent(&p))
		return !stop_silent(&p, sk);
	return !stop(COUNT_STOPPED_SOCKET);
}

/* Whether an excluded cgroup in another network namespace sent this. */
static __always_inline bool has_passed(struct __sk_buff *skb, const struct packet *p)
{
	struct passing key;
	__u64 *at;

	if (!pass_key(skb, p, &key))
		return false;
	at = bpf_map_lookup_elem(&passed, &key);
	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)PASSED_NS;
}

/* Leaves the machine in the clear? What comes from an IP socket was looked at where
 * it came from.
 */
static __always_inline bool stop_leaving(struct __sk_buff *skb, struct packet *p)
{
	enum counter why = COUNT_STOPPED_FORWARDED;
	struct bpf_sock *sk;
	bool is_read = read_ports(skb, p);

	if (p->opaque ? is_loopback(p->dst) : !is_read || !is_plain(p))
		return false;
	if (!leads_off(skb->ifindex) || is_open())
		return false;
	sk = full_sock(skb);
	if (sk) {
		if (sk->family != FAMILY_PACKET || sent_by_excluded(skb) ||
		    (!guards_host && !sent_by_sealed(skb)))
			return false;
		why = COUNT_STOPPED_PACKET;
	} else if (!guards_host) {
		return false;
	}
	if (p->opaque)
		return stop(COUNT_STOPPED_OPAQUE);
	if (!sk && has_passed(skb, p))
		return false;
	if (is_silent(p))
		return stop_silent(p, sk);
	return stop(why);
}

static __always_inline int guard_out(struct __sk_buff *skb, bool framed)
{
	struct packet p = {};

	if (!(framed ? read_frame(skb, &p) : read_ip(skb, &p)))
		return framed ? answer_arp(skb) : TC_ACT_UNSPEC;
	if (in_prefix(p.dst)) {
		struct bpf_sock *sk = full_sock(skb);

		if (sk && sk->family == FAMILY_PACKET && !is_own(sk) &&
		    stop_if(COUNT_STOPPED_MADE, DROP_UNHELD))
			return TC_ACT_SHOT;
		return lead_in(skb, &p, framed);
	}
	if (skb->tc_index == virtual_tag) {
		count(COUNT_STOPPED_TRANSLATED);
		return TC_ACT_SHOT;
	}
	if (in_prefix(p.src)) { /* off the machine: an answer to a source that somebody made up */
		if (!leads_off(skb->ifindex))
			return TC_ACT_UNSPEC;
		count(COUNT_ESCAPED);
		return TC_ACT_SHOT;
	}
	return stop_leaving(skb, &p) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

static __always_inline int guard_in(struct __sk_buff *skb, bool framed)
{
	struct packet p = {};

	if (skb->mark == back_mark) { /* led here by sotto_guard_back; no wire carries marks */
		skb->mark = 0;
		bpf_skb_change_type(skb, PACKET_HOST); /* its frame is for the listener's link */
		return TC_ACT_UNSPEC;
	}
	if (!(framed ? read_frame(skb, &p) : read_ip(skb, &p)))
		return TC_ACT_UNSPEC;
	if (in_prefix(p.src) || (in_prefix(p.dst) && leads_off(skb->ifindex))) {
		count(COUNT_OUTSIDE);
		return TC_ACT_SHOT;
	}
	if (in_prefix(p.dst))
		skb->tc_index = virtual_tag;
	return TC_ACT_UNSPEC;
}

/* On interfaces with Ethernet frames, and on those that carry bare IP. */
SEC("tc")
int sotto_guard_out_frame(struct __sk_buff *skb)
{
	return guard_out(skb, true);
}

SEC("tc")
int sotto_guard_out_ip(struct __sk_buff *skb)
{
	return guard_out(skb, false);
}

SEC("tc")
int sotto_guard_in_frame(struct __sk_buff *skb)
{
	return guard_in(skb, true);
}

SEC("tc")
int sotto_guard_in_ip(struct __sk_buff *skb)
{
	return guard_in(skb, false);
}

#endif
