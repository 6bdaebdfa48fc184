/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Redirection to the listener and back for sockets that are bound to another interface
 * (SO_BINDTODEVICE): part of the guard.
 */
#ifndef SOTTO_REDIRECT_H
#define SOTTO_REDIRECT_H

#include "address.h"
#include "counters.h"
#include "drops.h"
#include "packet.h"

#include <linux/pkt_cls.h>

#define ARP_REQUEST 1
#define ARP_REPLY 2

/* A flow of a bound socket, with the addresses of its queries. */
struct flow {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};

/* The interface that a flow expects replies from. A lost entry costs its client a retry, so
 * entries may be evicted.
 */
struct flows_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct flow);
	__type(value, __u32);
};
extern struct flows_map flows SEC(".maps");

/* Stores the interface of a bound socket, which accepts replies from no other. */
static __always_inline void flow_store(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock *sk = full_sock(skb);

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
}

/* Redirects a packet to the prefix, about to leave by this interface, to the listener. */
static __always_inline int redirect_in(struct __sk_buff *skb, struct packet *p, bool framed)
{
	struct guard *g = guard_state();
	struct ethhdr frame = {};

	/* A link-local source would be another host on the listener's link: no reply. */
	if (!g || !g->veth || p->tagged || is_link_local(p->src) ||
	    (!framed && has_link_header(skb))) {
		drop_count(skb, COUNT_ESCAPED, framed);
		return TC_ACT_SHOT;
	}
	frame.h_proto = is_mapped(p->dst) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	for (int i = 0; i < ETH_ALEN; i++) {
		frame.h_dest[i] = veth_inner[i];
		frame.h_source[i] = veth_host[i];
	}
	flow_store(skb, p);
	if ((!framed && bpf_skb_change_head(skb, sizeof(frame), 0)) ||
	    bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0)) {
		count(COUNT_ESCAPED); /* out of memory: the packet may have changed */
		return TC_ACT_SHOT;
	}
	count(COUNT_REDIRECTED_IN);
	return bpf_redirect(g->veth, 0);
}

/* Redirects a reply of the listener to the interface that its socket is bound to. */
static __always_inline int redirect_back(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow f = {};
	__u32 *ifindex;

	if (skb->tc_index == answer_tag) { /* its socket is not bound */
		skb->tc_index = 0;
		return TC_ACT_UNSPEC;
	}
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
	count(COUNT_REDIRECTED_BACK);
	return bpf_redirect(*ifindex, BPF_F_INGRESS);
}

struct arp_frame {
	struct ethhdr eth;
	__be16 hardware;
	__be16 protocol;
	__u8 sizes[2];
	__be16 operation;
	__u8 sender[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target[ETH_ALEN];
	__u8 target_ip[4];
};

/* Turns a request into the reply that its target is at the listener's Ethernet address. */
static __always_inline void make_arp_reply(struct arp_frame *a)
{
	__u8 target_ip[4];

	a->operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(target_ip, a->target_ip, sizeof(target_ip));
	__builtin_memcpy(a->target_ip, a->sender_ip, sizeof(target_ip));
	__builtin_memcpy(a->sender_ip, target_ip, sizeof(target_ip));
	__builtin_memcpy(a->target, a->sender, ETH_ALEN);
	__builtin_memcpy(a->eth.h_dest, a->sender, ETH_ALEN);
	for (int i = 0; i < ETH_ALEN; i++) {
		a->sender[i] = veth_inner[i];
		a->eth.h_source[i] = veth_inner[i];
	}
}

/* Answers an ARP request for the prefix. For an IPv4 socket that is bound to an interface the
 * kernel takes the prefix for on-link there (net/ipv4/route.c: "assume that destination is on
 * link"), so that packets would wait for an address that no host on the link has. The request
 * does not leave.
 */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct arp_frame a;
	__be32 ip;

	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.eth.h_proto != bpf_htons(ETH_P_ARP) ||
	    a.protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&ip, a.target_ip, sizeof(ip));
	if ((bpf_ntohl(ip) & prefix4_mask) != prefix4)
		return TC_ACT_UNSPEC;
	if (a.operation != bpf_htons(ARP_REQUEST))
		return TC_ACT_SHOT;
	make_arp_reply(&a);
	if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

#endif
