/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way to the listener, and back, for sockets that are pinned to another interface:
 * part of the guard.
 */
#ifndef SOTTO_LEAD_H
#define SOTTO_LEAD_H

#include "packet.h"

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#define ARP_REQUEST 1
#define ARP_REPLY 2

const volatile __u32 back_mark;	  /* of replies on their way to a pinned socket */
const volatile __u8 veth_host[6]; /* the listener's link: its end on the host */
const volatile __u8 veth_inner[6];

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

static __always_inline struct bpf_sock *full_sock(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
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
