/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the guard reads of a packet: addresses, transport, ports. Every read is a
 * checked copy, so that a cut, crafted or non-linear packet is only ever not read.
 */
#ifndef SOTTO_PACKET_H
#define SOTTO_PACKET_H

#include "classify.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

/* From kernel headers that do not mix with linux/bpf.h's users here. */
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8

/* An outer and an inner tag; the guard cannot see below more. */
#define MAX_TAGS 2

/* Extension headers of IPv6 (RFC 8200) that are walked. Nobody sends as many. */
#define MAX_EXTENSIONS 8

#define NEXT_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTH 51
#define NEXT_DEST 60

struct packet {
	__be32 src[4]; /* IPv4 addresses are mapped */
	__be32 dst[4];
	__u32 len;
	__u32 at;   /* where to read on: in the end behind the transport header */
	__u32 head; /* of the transport header */
	__be16 sport;
	__be16 dport;
	__be16 offset; /* of a fragment, not in bytes: but for the first, it has no ports */
	__be16 more;   /* not 0: a fragment, and not the last */
	__u8 protocol;
	__u8 opaque;	/* what it carries cannot be read from its headers */
	__u8 tagged;	/* with a VLAN tag inside the frame */
	__u8 tcp_flags; /* 0 for others */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_ACK 0x10

static __always_inline bool read_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr h;

	if (bpf_skb_load_bytes(skb, p->at, &h, sizeof(h)) || h.version != 4)
		return false;
	p->src[2] = bpf_htonl(0xffff);
	p->src[3] = h.saddr;
	p->dst[2] = bpf_htonl(0xffff);
	p->dst[3] = h.daddr;
	p->protocol = h.protocol;
	p->offset = h.frag_off & bpf_htons(0x1fff);
	p->more = h.frag_off & bpf_htons(0x2000);
	p->at += h.ihl * 4;
	return true;
}

LOCAL int read_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr h;

	if (bpf_skb_load_bytes(skb, p->at, &h, sizeof(h)) || h.version != 6)
		return false;
	__builtin_memcpy(p->src, &h.saddr, sizeof(p->src));
	__builtin_memcpy(p->dst, &h.daddr, sizeof(p->dst));
	p->protocol = h.nexthdr;
	p->at += sizeof(h);
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct {
			__u8 next;
			__u8 len;
			__be16 offset; /* of a fragment, with three flags below */
		} e;

		switch (p->protocol) {
		case NEXT_HOP:
		case NEXT_ROUTING:
		case NEXT_FRAGMENT:
		case NEXT_AUTH:
		case NEXT_DEST:
			break;
		default:
			return true;
		}
		if (bpf_skb_load_bytes(skb, p->at, &e, sizeof(e)))
			break;
		if (p->protocol == NEXT_FRAGMENT) {
			p->offset |= e.offset & bpf_htons(0xfff8);
			p->more |= e.offset & bpf_htons(1);
			p->at += 8;
		} else if (p->protocol == NEXT_AUTH) {
			p->at += (e.len + 2) * 4;
		} else {
			p->at += (e.len + 1) * 8;
		}
		p->protocol = e.next;
	}
	p->opaque = 1;
	return true;
}

/* Reads the IP header at p->at. */
static __always_inline bool read_ip(struct __sk_buff *skb, struct packet *p)
{
	__u8 first;

	if (bpf_skb_load_bytes(skb, p->at, &first, 1))
		return false;
	if (first >> 4 == 4)
		return read_ip4(skb, p);
	return first >> 4 == 6 && read_ip6(skb, p);
}

/* Reads an Ethernet frame up to its IP header, and that. */
static __always_inline bool read_frame(struct __sk_buff *skb, struct packet *p)
{
	__be16 type;

	p->at = offsetof(struct ethhdr, h_proto);
	for (int i = 0; i <= MAX_TAGS; i++) {
		if (bpf_skb_load_bytes(skb, p->at, &type, sizeof(type)))
			return false;
		p->at += sizeof(type);
		if (type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6))
			return read_ip(skb, p);
		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			return false;
		p->tagged = 1;
		p->at += 2; /* the tag; the next type follows */
	}
	return false;
}

static __always_inline bool read_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr h;

	if (bpf_skb_load_bytes(skb, p->at, &h, sizeof(h)))
		return false;
	p->sport = h.source;
	p->dport = h.dest;
	p->tcp_flags = ((__u8 *)&h)[13];
	p->at += h.doff * 4;
	return true;
}

static __always_inline bool read_udp(struct __sk_buff *skb, struct packet *p)
{
	__be16 ports[4]; /* a whole header: there is no query in less */

	if (bpf_skb_load_bytes(skb, p->at, ports, sizeof(ports)))
		return false;
	p->sport = ports[0];
	p->dport = ports[1];
	p->at += sizeof(ports);
	return true;
}

/* Reports whether a TCP segment, whose header was read, has payload. */
static __always_inline bool has_payload(const struct packet *p)
{
	return p->len > p->at || p->more;
}

/* Reads the ports, if there are any, and leaves p->at behind the header. A first fragment
 * that ends inside of the header is opaque: the receiver puts together what is not to be
 * seen here (RFC 1858 section 3, RFC 7112).
 */
static __always_inline bool read_ports(struct __sk_buff *skb, struct packet *p)
{
	bool is_read;

	if (p->offset || p->opaque)
		return false;
	p->head = p->at;
	p->len = skb->len;
	if (p->protocol == PROTO_TCP)
		is_read = read_tcp(skb, p);
	else if (p->protocol == PROTO_UDP || p->protocol == PROTO_UDPLITE)
		is_read = read_udp(skb, p);
	else
		return false;
	if (!is_read && p->more)
		p->opaque = 1;
	return is_read;
}

#endif
