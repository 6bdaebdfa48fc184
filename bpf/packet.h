/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packet parsing for the guard: addresses, transport, ports. Every read is a checked copy, so
 * that the worst result of a truncated, crafted or non-linear packet is a failed read.
 */
#ifndef SOTTO_PACKET_H
#define SOTTO_PACKET_H

#include "kernel.h"
#include "settings.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

/* An outer and an inner VLAN tag; the guard does not parse frames with more. */
#define MAX_TAGS 2

/* Limit of parsed IPv6 extension headers (RFC 8200). No regular packet has as many. */
#define MAX_EXTENSIONS 8

#define NEXT_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTH 51
#define NEXT_DEST 60

#define TCP_SYN 0x02 /* of packet.tcp_flags */
#define TCP_ACK 0x10

struct packet {
	__be32 src[4]; /* IPv4 addresses are mapped */
	__be32 dst[4];
	__u32 len;
	__u32 pos;	 /* offset of the next header, finally of the payload */
	__u32 transport; /* offset of the transport header */
	__be16 sport;
	__be16 dport;
	__be16 frag_offset; /* not 0: a fragment without ports; the unit is not bytes */
	__be16 more_frags;  /* not 0: a fragment, and not the last */
	__u8 protocol;
	__u8 opaque;	/* the headers hide the transport header */
	__u8 tagged;	/* the frame itself contains a VLAN tag */
	__u8 bare;	/* read without its link header: offsets count from the IP header */
	__u8 tcp_flags; /* 0 for other protocols */
};

/* Reads from a packet. A link without Ethernet frames may still have a header before that of IP
 * (GRE without a remote address, IP over InfiniBand), whose length the program does not know.
 */
static __always_inline long load(struct __sk_buff *skb, const struct packet *p, __u32 at, void *to,
				 __u32 len)
{
	if (p->bare)
		return bpf_skb_load_bytes_relative(skb, at, to, len, BPF_HDR_START_NET);
	return bpf_skb_load_bytes(skb, at, to, len);
}

static __always_inline bool is_extension(__u8 protocol)
{
	switch (protocol) {
	case NEXT_HOP:
	case NEXT_ROUTING:
	case NEXT_FRAGMENT:
	case NEXT_AUTH:
	case NEXT_DEST:
		return true;
	default:
		return false;
	}
}

/* Of a packet whose headers may be in fragments. */
struct layout {
	__u32 ip; /* length of the IP header; 0: it is not linear */
	__u8 protocol;
};

static __always_inline void read_layout(struct __sk_buff *skb, struct layout *l)
{
	__u8 h[20];

	if (bpf_skb_load_bytes_relative(skb, 0, h, sizeof(h), BPF_HDR_START_NET))
		return;
	l->ip = h[0] >> 4 == 6 ? sizeof(struct ipv6hdr) : (h[0] & 15) * 4;
	l->protocol = h[0] >> 4 == 6 ? h[6] : h[9];
}

/* Reports whether the linear part has all that is read of a packet: its headers, and of a datagram
 * the ID and flags of a query, unless it was merged of several (see pull_headers).
 */
static __always_inline bool is_readable(struct __sk_buff *skb, const struct layout *l)
{
	__u8 h[20];

	if (!l->ip || is_extension(l->protocol))
		return false;
	if (l->protocol == PROTO_TCP)
		return !bpf_skb_load_bytes_relative(skb, l->ip, h, 20, BPF_HDR_START_NET);
	if (l->protocol != PROTO_UDP && l->protocol != PROTO_UDPLITE)
		return !bpf_skb_load_bytes_relative(skb, l->ip - 1, h, 1, BPF_HDR_START_NET);
	if (skb->gso_size)
		return !bpf_skb_load_bytes_relative(skb, l->ip, h, 8, BPF_HDR_START_NET);
	return !bpf_skb_load_bytes_relative(skb, l->ip, h, 12, BPF_HDR_START_NET);
}

/* Headers that are further behind are not read: the packet is opaque, or too short for IP. */
#define MAX_HEADERS 2048

/* Moves the headers of a packet without Ethernet header to its linear part, where alone the kernel
 * reads relative to the IP header. A program may send them in fragments, for example from a ring
 * (PACKET_TX_RING).
 *
 * A packet that the kernel merged of several (GRO) may have a list of their buffers, which must not
 * change: segmentation relies on it (skb_segment in net/core/skbuff.c). The first buffer has the
 * headers and gso_size bytes of payload, so that no more than that is moved.
 */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	__u32 len = skb->len, size = skb->gso_size, most = MAX_HEADERS;
	struct layout l = {};
	__u8 last;

	if (!bpf_skb_load_bytes_relative(skb, len - 1, &last, 1, BPF_HDR_START_NET))
		return; /* it is linear */
	read_layout(skb, &l);
	if (is_readable(skb, &l))
		return;
	if (l.ip && size)
		most = l.ip + (l.protocol == PROTO_TCP ? sizeof(struct tcphdr) : 8) +
		       (size < 64 ? size : 64);
	bpf_skb_pull_data(skb, len < most ? len : most);
}

/* Reports whether a packet that was read without its link header has one. The first 8 bytes of
 * an IP header contain the length of the packet, so that no other one has the same before it.
 */
static __always_inline bool has_link_header(struct __sk_buff *skb)
{
	__u64 data = 0, ip = 0;

	return bpf_skb_load_bytes(skb, 0, &data, sizeof(data)) ||
	       bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) ||
	       data != ip;
}

/* Returns the length of an IP packet from its header, with the header. */
static __always_inline __u32 ip_len(struct __sk_buff *skb)
{
	__be16 start[4] = {};

	bpf_skb_load_bytes_relative(skb, 0, start, sizeof(start), BPF_HDR_START_NET);
	if ((bpf_ntohs(start[0]) >> 12) == 6)
		return sizeof(struct ipv6hdr) + bpf_ntohs(start[2]);
	return bpf_ntohs(start[1]);
}

static __always_inline bool read_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr h;

	if (load(skb, p, p->pos, &h, sizeof(h)) || h.version != 4)
		return false;
	p->src[2] = bpf_htonl(0xffff);
	p->src[3] = h.saddr;
	p->dst[2] = bpf_htonl(0xffff);
	p->dst[3] = h.daddr;
	p->protocol = h.protocol;
	p->frag_offset = h.frag_off & bpf_htons(0x1fff);
	p->more_frags = h.frag_off & bpf_htons(0x2000);
	p->pos += h.ihl * 4;
	return true;
}

/* The first four bytes of an IPv6 extension header. */
struct extension {
	__u8 next;
	__u8 len;
	__be16 offset; /* of a fragment, in the upper 13 bits */
};

static __always_inline void skip_extension(struct packet *p, const struct extension *e)
{
	if (p->protocol == NEXT_FRAGMENT) {
		p->frag_offset |= e->offset & bpf_htons(0xfff8);
		p->more_frags |= e->offset & bpf_htons(1);
		p->pos += 8;
	} else if (p->protocol == NEXT_AUTH) {
		p->pos += (e->len + 2) * 4;
	} else {
		p->pos += (e->len + 1) * 8;
	}
	p->protocol = e->next;
}

LOCAL int read_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr h;

	if (load(skb, p, p->pos, &h, sizeof(h)) || h.version != 6)
		return false;
	__builtin_memcpy(p->src, &h.saddr, sizeof(p->src));
	__builtin_memcpy(p->dst, &h.daddr, sizeof(p->dst));
	p->protocol = h.nexthdr;
	p->pos += sizeof(h);
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct extension e;

		/* Behind the header of a later fragment is data (RFC 8200 section 4.5). */
		if (p->frag_offset || !is_extension(p->protocol))
			return true;
		if (load(skb, p, p->pos, &e, sizeof(e)))
			break;
		skip_extension(p, &e);
	}
	p->opaque = 1;
	return true;
}

/* Reads the IP header at p->pos, and extension headers. */
static __always_inline bool read_ip(struct __sk_buff *skb, struct packet *p)
{
	__u8 first;

	if (load(skb, p, p->pos, &first, 1))
		return false;
	if (first >> 4 == 4)
		return read_ip4(skb, p);
	return first >> 4 == 6 && read_ip6(skb, p);
}

/* Reads the headers of an Ethernet frame, including those of IP. */
static __always_inline bool read_frame(struct __sk_buff *skb, struct packet *p)
{
	__be16 type;

	p->pos = offsetof(struct ethhdr, h_proto);
	for (int i = 0; i <= MAX_TAGS; i++) {
		if (bpf_skb_load_bytes(skb, p->pos, &type, sizeof(type)))
			return false;
		p->pos += sizeof(type);
		if (type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6))
			return read_ip(skb, p);
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			return false;
		p->tagged = 1;
		p->pos += 2; /* the tag; the next type follows */
	}
	return false;
}

static __always_inline bool read_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr h;

	if (load(skb, p, p->pos, &h, sizeof(h)))
		return false;
	p->sport = h.source;
	p->dport = h.dest;
	p->tcp_flags = ((__u8 *)&h)[13];
	p->pos += h.doff * 4;
	return true;
}

static __always_inline bool read_udp(struct __sk_buff *skb, struct packet *p)
{
	__be16 header[4]; /* read whole: a packet with less has no query */

	if (load(skb, p, p->pos, header, sizeof(header)))
		return false;
	p->sport = header[0];
	p->dport = header[1];
	p->pos += sizeof(header);
	return true;
}

/* Reads the transport header, if it has ports. A first fragment that ends within the header is
 * opaque: the receiver reassembles what is hidden here (RFC 1858 section 3, RFC 7112).
 */
static __always_inline bool read_ports(struct __sk_buff *skb, struct packet *p)
{
	bool is_read;

	if (p->frag_offset || p->opaque)
		return false;
	p->transport = p->pos;
	p->len = skb->len;
	if (p->protocol == PROTO_TCP)
		is_read = read_tcp(skb, p);
	else if (p->protocol == PROTO_UDP || p->protocol == PROTO_UDPLITE)
		is_read = read_udp(skb, p);
	else
		return false;
	if (!is_read && p->more_frags)
		p->opaque = 1;
	return is_read;
}

/* Reports whether a TCP segment has payload. read_ports comes first. */
static __always_inline bool has_payload(const struct packet *p)
{
	return p->len > p->pos || p->more_frags;
}

static __always_inline struct bpf_sock *full_sock(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : 0;
}

#endif
