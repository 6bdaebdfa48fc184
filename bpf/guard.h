/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The guard: what the hooks on sockets cannot catch.
 *
 * On sealed cgroups it stops plain queries that sockets send past the hooks: raw
 * ones, those connected before there was a seal. On the host's interfaces it stops
 * those of packet sockets and, where the whole host is sealed, what is forwarded; it
 * leads packets for the virtual prefix, which a socket pinned to an interface would
 * send onto a wire, to the listener; and it keeps the prefix dead from outside.
 */
#ifndef SOTTO_GUARD_H
#define SOTTO_GUARD_H

#include "packet.h"
#include "slots.h"

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#define FAMILY_PACKET 17 /* AF_PACKET */
#define TYPE_STREAM 1	 /* SOCK_STREAM */

#define ARP_REQUEST 1
#define ARP_REPLY 2

/* How long after a let-through cgroup sent a packet it may be forwarded: from one
 * network namespace into the next takes microseconds.
 */
#define PASSED_NS 1000000000ULL

const volatile __u8 guards_host;   /* plain packets of nobody's socket are stopped as well */
const volatile __u32 back_mark;	   /* of replies on their way to a pinned socket */
const volatile __u32 prefix4_mask; /* in host order */
const volatile __be32 prefix6_mask[4];
const volatile __u8 veth_host[6]; /* the listener's link: its end on the host */
const volatile __u8 veth_inner[6];

/* Sealed cgroups, with their level below the root. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} sealed SEC(".maps");

/* A flow of a pinned socket, as its queries are addressed. */
struct flow {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};

/* By which interface a flow wants to be answered. Losing an entry costs its client a
 * retry, so this may evict.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct flow);
	__type(value, __u32);
} flows SEC(".maps");

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

static __always_inline bool in_prefix(const __be32 addr[4])
{
	if (is_mapped(addr))
		return (bpf_ntohl(addr[3]) & prefix4_mask) == prefix4;
	return (addr[0] & prefix6_mask[0]) == prefix6[0] &&
	       (addr[1] & prefix6_mask[1]) == prefix6[1] &&
	       (addr[2] & prefix6_mask[2]) == prefix6[2] &&
	       (addr[3] & prefix6_mask[3]) == prefix6[3];
}

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

static __always_inline bool sent_by_excluded(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct instance *set = bpf_map_lookup_elem(&settings, &zero);

	return set && sent_from(skb, &exclude, set->exclude_levels);
}

static __always_inline bool sent_by_sealed(struct __sk_buff *skb)
{
	struct guard *g = guard_state();

	return g && sent_from(skb, &sealed, g->seal_levels);
}

static __always_inline struct bpf_sock *full_sock(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
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

/* Told by reason, and stopped unless the guard only counts. */
static __always_inline bool stop(enum counter why)
{
	struct guard *g = guard_state();

	count(why);
	return g && g->drop;
}

/* Whether p leads to a nameserver in the clear. */
static __always_inline bool is_plain(struct __sk_buff *skb, struct packet *p)
{
	return read_ports(skb, p) && is_sealed_port(p->dport) && !is_exempt(p->dst);
}

/* A segment without payload asks nothing. Those of a connection that Sotto ended
 * carry no socket any more, and an acknowledgement is owed to its other end; what
 * else comes without a query (a reset, the end of a connection from before the seal)
 * is not worth telling, nor sending.
 */
static __always_inline bool is_silent(const struct packet *p)
{
	return p->protocol == PROTO_TCP && !p->carries && !(p->tcp_flags & TCP_SYN);
}

static __always_inline bool stop_silent(const struct packet *p, struct bpf_sock *sk)
{
	if (p->tcp_flags == TCP_ACK && (!sk || sk->type != TYPE_STREAM))
		return false;
	return stop(COUNT_STOPPED_SILENT);
}

/* Sealed sockets, of every network namespace. */
SEC("cgroup_skb/egress")
int sotto_guard_socket(struct __sk_buff *skb)
{
	struct packet p = {};
	struct bpf_sock *sk;

	if (!read_ip(skb, &p))
		return 1;
	if (p.opaque && !is_exempt(p.dst) && !is_open())
		return !stop(COUNT_STOPPED_OPAQUE);
	if (!is_plain(skb, &p))
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

	if (p->opaque ? is_exempt(p->dst) : !is_plain(skb, p))
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

/* Leads a packet for the prefix, which would leave by this interface, to the
 * listener. A socket that is bound to the interface takes no reply from another one,
 * so the way back is kept.
 */
static __always_inline int lead_in(struct __sk_buff *skb, struct packet *p, bool framed)
{
	struct guard *g = guard_state();
	struct bpf_sock *sk = full_sock(skb);
	struct ethhdr frame = {};

	/* Nobody could answer a link-local source, which is another one there. */
	if (!g || !g->veth || p->tagged || is_link_local(p->src)) {
		count(COUNT_ESCAPED);
		return TC_ACT_SHOT;
	}
	frame.h_proto = is_mapped(p->dst) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	for (int i = 0; i < ETH_ALEN; i++) {
		frame.h_dest[i] = veth_inner[i];
		frame.h_source[i] = veth_host[i];
	}
	if (sk && sk->bound_dev_if && read_ports(skb, p)) {
		struct flow f = {};
		__u32 ifindex = skb->ifindex;

		__builtin_memcpy(f.src, p->src, sizeof(f.src));
		__builtin_memcpy(f.dst, p->dst, sizeof(f.dst));
		f.sport = p->sport;
		f.dport = p->dport;
		f.protocol = p->protocol;
		bpf_map_update_elem(&flows, &f, &ifindex, BPF_ANY);
	}
	if ((!framed && bpf_skb_change_head(skb, sizeof(frame), 0)) ||
	    bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0)) {
		count(COUNT_ESCAPED);
		return TC_ACT_SHOT;
	}
	count(COUNT_LED_IN);
	return bpf_redirect(g->veth, 0);
}

/* An IPv4 socket that is bound to an interface has the prefix looked for on its wire
 * (net/ipv4/route.c: "assume that destination is on link"), so that its packets wait for
 * an address of Ethernet that nobody there has. It is told one here, and the question
 * does not leave.
 */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct {
		struct ethhdr eth;
		__be16 hardware;
		__be16 protocol;
		__u8 sizes[2];
		__be16 operation;
		__u8 sender[ETH_ALEN];
		__u8 sender_ip[4];
		__u8 target[ETH_ALEN];
		__u8 target_ip[4];
	} a;
	__u8 asked[4];
	__be32 ip;

	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.eth.h_proto != bpf_htons(ETH_P_ARP) ||
	    a.protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&ip, a.target_ip, sizeof(ip));
	if ((bpf_ntohl(ip) & prefix4_mask) != prefix4)
		return TC_ACT_UNSPEC;
	if (a.operation != bpf_htons(ARP_REQUEST))
		return TC_ACT_SHOT;
	a.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(asked, a.target_ip, sizeof(asked));
	__builtin_memcpy(a.target_ip, a.sender_ip, sizeof(asked));
	__builtin_memcpy(a.sender_ip, asked, sizeof(asked));
	__builtin_memcpy(a.target, a.sender, ETH_ALEN);
	__builtin_memcpy(a.eth.h_dest, a.sender, ETH_ALEN);
	for (int i = 0; i < ETH_ALEN; i++) {
		a.sender[i] = veth_inner[i];
		a.eth.h_source[i] = veth_inner[i];
	}
	if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

static __always_inline int guard_out(struct __sk_buff *skb, bool framed)
{
	struct packet p = {};

	if (!(framed ? read_frame(skb, &p) : read_ip(skb, &p)))
		return framed ? answer_arp(skb) : TC_ACT_UNSPEC;
	if (in_prefix(p.dst))
		return lead_in(skb, &p, framed);
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

/* Replies that come from the listener. Those to a socket that is bound to another
 * interface arrive there.
 */
SEC("tc")
int sotto_guard_back(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow f = {};
	__u32 *ifindex;

	if (!read_frame(skb, &p) || !read_ports(skb, &p))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(f.src, p.dst, sizeof(f.src));
	__builtin_memcpy(f.dst, p.src, sizeof(f.dst));
	f.sport = p.dport;
	f.dport = p.sport;
	f.protocol = p.protocol;
	ifindex = bpf_map_lookup_elem(&flows, &f);
	if (!ifindex)
		return TC_ACT_UNSPEC;
	skb->mark = back_mark;
	count(COUNT_LED_BACK);
	return bpf_redirect(*ifindex, BPF_F_INGRESS);
}

#endif
