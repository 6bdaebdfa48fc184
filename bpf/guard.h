/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The guard handles packets that bypass the hooks on sockets.
 *
 * On sealed cgroups it stops plain queries of raw sockets and of sockets that were connected
 * before the seal. On the host's interfaces it stops plain queries of packet sockets and, if
 * the whole host is sealed, forwarded ones; it redirects packets to the virtual prefix, which
 * a bound socket would send out of the machine, to the listener (redirect.h); and it drops
 * packets from or to the prefix that arrive from outside.
 */
#ifndef SOTTO_GUARD_H
#define SOTTO_GUARD_H

#include "address.h"
#include "answers.h"
#include "callers.h"
#include "classify.h"
#include "drops.h"
#include "holds.h"
#include "local.h"
#include "packet.h"
#include "redirect.h"

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

/* How long after an excluded cgroup sent a packet it may be forwarded: from one network
 * namespace to the next takes microseconds.
 */
#define PASSED_NS 1000000000ULL

/* A packet of an excluded cgroup, by what address translation does not change. */
struct passing {
	__be32 dst[4];
	__be16 dport;
	__u16 protocol;
	__u32 id; /* DNS over UDP: ID and flags; TCP: the sequence number */
};

/* Packets that excluded cgroups sent recently, with their time. A packet from another network
 * namespace (a container) loses its socket on the way to the host's interface.
 */
struct passed_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct passing);
	__type(value, __u64);
};
extern struct passed_map passed SEC(".maps");

/* Reports whether the cgroup of the packet's socket, or one above it, is in the set. */
static __always_inline bool sent_from(struct __sk_buff *skb, void *set, __u64 levels)
{
	if (!skb->sk)
		return false;
	for (int i = 0; i < MAX_SEARCHED_LEVELS && levels; i++, levels &= levels - 1) {
		__u64 id = bpf_skb_ancestor_cgroup_id(skb, lowest_level(levels));

		if (!id)
			break; /* below the socket's own cgroup */
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

/* Builds a packet's key in passed. read_ports comes first. */
static __always_inline bool passing_key(struct __sk_buff *skb, const struct packet *p,
					struct passing *key)
{
	__u32 at = p->transport + (p->protocol == PROTO_TCP ? offsetof(struct tcphdr, seq) : 8);

	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->dst, p->dst, sizeof(key->dst));
	key->dport = p->dport;
	key->protocol = p->protocol;
	return !load(skb, p, at, &key->id, sizeof(key->id));
}

static __always_inline void passed_store(struct __sk_buff *skb, const struct packet *p)
{
	struct passing key;
	__u64 now = bpf_ktime_get_ns();

	if (passing_key(skb, p, &key))
		bpf_map_update_elem(&passed, &key, &now, BPF_ANY);
}

/* Reports whether an excluded cgroup in another network namespace sent the packet. */
static __always_inline bool has_passed(struct __sk_buff *skb, const struct packet *p)
{
	struct passing key;
	__u64 *at;

	if (!passing_key(skb, p, &key))
		return false;
	at = bpf_map_lookup_elem(&passed, &key);
	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)PASSED_NS;
}

/* Counts a reason, and reports whether its packets are dropped, not only counted. */
GLOBAL int stop_if(struct __sk_buff *skb, enum counter reason, __u32 drop, __u32 framed)
{
	struct guard *g = guard_state();
	bool drops = g && g->drop & drop;

	count(reason);
	if (reason != COUNT_STOPPED_SILENT && is_watched())
		drop_store(skb, reason, framed, drops ? 0 : DROP_PASSED);
	return drops;
}

static __always_inline bool stop(struct __sk_buff *skb, enum counter reason, bool framed)
{
	return stop_if(skb, reason, DROP_PLAIN, framed);
}

/* Reports whether a packet goes to the plain DNS port of a nameserver. read_ports comes first. */
static __always_inline bool is_plain(const struct packet *p)
{
	return is_sealed_port(p->dport) && !is_loopback(p->dst);
}

/* Reports whether a packet is a segment without payload, and so without a query. */
static __always_inline bool is_silent(const struct packet *p)
{
	return p->protocol == PROTO_TCP && !has_payload(p) && !(p->tcp_flags & TCP_SYN);
}

/* The kernel sends acknowledgements without a socket for connections that Sotto closed, and
 * the other end needs them. All other segments without a query (a reset, the end of a
 * connection from before the seal) are stopped, and not reported.
 */
static __always_inline bool stop_silent(struct __sk_buff *skb, const struct packet *p,
					struct bpf_sock *sk)
{
	if (p->tcp_flags == TCP_ACK && (!sk || sk->type != TYPE_STREAM))
		return false;
	return stop(skb, COUNT_STOPPED_SILENT, false);
}

/* Reports whether a packet to a virtual address is stopped: if its socket does not hold the
 * slot, the listener would attribute it to the workload that does. A closed socket holds no
 * slot, and may still close its connection.
 */
static __always_inline bool stop_virtual(struct __sk_buff *skb, const struct packet *p,
					 struct bpf_sock *sk)
{
	struct guard *g = guard_state();
	bool stream = p->protocol == PROTO_TCP;

	if (g && g->drop & DROP_VIRTUAL)
		return stop_if(skb, COUNT_STOPPED_UNHELD, DROP_VIRTUAL, false);
	if (!sk || is_own(sk) || is_to_host(p->dst, p->dport) || sent_by_excluded(skb))
		return false;
	if (sk->type == TYPE_RAW)
		return stop_if(skb, COUNT_STOPPED_MADE, DROP_UNHELD, false);
	if (is_silent(p))
		return false;
	if (!p->dport || holds_slot(sk, p->dst, stream, !stream || has_payload(p)))
		return false;
	return stop_if(skb, COUNT_STOPPED_UNHELD, DROP_UNHELD, false);
}

/* Reports whether a plain query of a sealed socket is stopped. */
static __always_inline bool stop_plain(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = full_sock(skb);

	if ((sk && is_own(sk)) || is_open())
		return false;
	if (sent_by_excluded(skb) || is_answer(skb, p, sk)) {
		if (guards_host)
			passed_store(skb, p);
		return false;
	}
	if (is_group(p->dst))
		return skb->ifindex != LOOPBACK && stop(skb, COUNT_STOPPED_GROUP, false);
	if (is_silent(p))
		return stop_silent(skb, p, sk);
	return stop(skb, COUNT_STOPPED_SOCKET, false);
}

/* Reports whether a packet of a sealed socket, of any network namespace, is stopped. */
static __always_inline bool guard_socket(struct __sk_buff *skb)
{
	struct packet p = {};
	bool is_read;

	if (!read_ip(skb, &p))
		return false;
	is_read = read_ports(skb, &p);
	if (in_prefix(p.dst)) {
		struct bpf_sock *sk = full_sock(skb);

		if (!attributes)
			return stop_virtual(skb, &p, sk);
		if (stop_virtual(skb, &p, sk))
			return true;
		sender_store(skb, &p, sk);
		return false;
	}
	if ((!p.opaque && (!is_read || !is_sealed_port(p.dport))) || is_kept_packet(skb, p.dst))
		return false;
	if (p.opaque && !is_open())
		return stop(skb, COUNT_STOPPED_OPAQUE, false);
	return is_read && is_sealed_port(p.dport) && stop_plain(skb, &p);
}

/* Reports whether a socket is one of IP, whose packets were checked at their cgroup. Others are
 * packet sockets, and the sockets of tap devices, which own the frames that a virtual machine
 * sends until a bridge has passed them on (drivers/net/tun.c).
 */
static __always_inline bool is_ip(const struct bpf_sock *sk)
{
	return sk->family == FAMILY_INET || sk->family == FAMILY_INET6;
}

/* Reports whether a packet that leaves the machine is stopped. */
static __always_inline bool stop_leaving(struct __sk_buff *skb, struct packet *p, bool framed)
{
	enum counter reason = COUNT_STOPPED_FORWARDED;
	struct bpf_sock *sk;
	bool is_read = read_ports(skb, p);

	if (p->opaque ? is_loopback(p->dst) : !is_read || !is_plain(p))
		return false;
	if (!is_external(skb->ifindex) || is_open())
		return false;
	sk = full_sock(skb);
	if (sk && (is_ip(sk) || sent_by_excluded(skb)))
		return false;
	if (!guards_host && !(sk && sent_by_sealed(skb)))
		return false;
	if (sk && sk->family == FAMILY_PACKET)
		reason = COUNT_STOPPED_PACKET;
	if (p->opaque)
		return stop(skb, COUNT_STOPPED_OPAQUE, framed);
	if (!sk && has_passed(skb, p))
		return false;
	if (is_silent(p))
		return stop_silent(skb, p, sk);
	return stop(skb, reason, framed);
}

/* A packet that an interface sends. framed: with an Ethernet header. */
static __always_inline int guard_out(struct __sk_buff *skb, bool framed)
{
	struct packet p = {.bare = !framed};

	if (!framed)
		pull_headers(skb);
	if (!(framed ? read_frame(skb, &p) : read_ip(skb, &p)))
		return framed ? answer_arp(skb) : TC_ACT_UNSPEC;
	if (in_prefix(p.dst)) {
		struct bpf_sock *sk = full_sock(skb);

		if (sk && !is_ip(sk) && !is_own(sk) &&
		    stop_if(skb, COUNT_STOPPED_MADE, DROP_UNHELD, framed))
			return TC_ACT_SHOT;
		return redirect_in(skb, &p, framed);
	}
	if (skb->tc_index == virtual_tag) {
		drop_count(skb, COUNT_STOPPED_TRANSLATED, framed);
		return TC_ACT_SHOT;
	}
	if (in_prefix(p.src)) { /* the reply to a forged source, if it leaves the machine */
		if (!is_external(skb->ifindex))
			return TC_ACT_UNSPEC;
		drop_count(skb, COUNT_ESCAPED, framed);
		return TC_ACT_SHOT;
	}
	return stop_leaving(skb, &p, framed) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* A packet that an interface receives. */
static __always_inline int guard_in(struct __sk_buff *skb, bool framed)
{
	struct packet p = {.bare = !framed};

	if (skb->mark == back_mark) { /* from redirect_back; marks do not cross a network */
		skb->mark = 0;
		bpf_skb_change_type(skb, PACKET_HOST); /* the frame is for the veth pair */
		return TC_ACT_UNSPEC;
	}
	if (!framed)
		pull_headers(skb);
	if (!(framed ? read_frame(skb, &p) : read_ip(skb, &p)))
		return TC_ACT_UNSPEC;
	if (in_prefix(p.src) || (in_prefix(p.dst) && is_external(skb->ifindex))) {
		drop_count(skb, COUNT_OUTSIDE, framed);
		return TC_ACT_SHOT;
	}
	if (in_prefix(p.dst))
		skb->tc_index = virtual_tag;
	return TC_ACT_UNSPEC;
}

#endif
