/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading of queries that the kernel may answer: everything in them has to be usual. */
#ifndef SOTTO_HITQUERY_H
#define SOTTO_HITQUERY_H

#include "hits.h"

/* Returns len, which is from 1 to max, a power of two, in a form that shows the verifier so. */
static __always_inline __u32 bounded(__u32 len, __u32 max)
{
	asm volatile("" : "+r"(len)); /* keep the mask */
	return ((len - 1) & (max - 1)) + 1;
}

/* Reports whether user space refuses to answer to this port; answersAnything in policy.go. */
static __always_inline bool is_service(__be16 port)
{
	switch (bpf_ntohs(port)) {
	case 0:
	case 7:
	case 13:
	case 17:
	case 19:
	case 37:
	case 464:
		return true;
	default:
		return false;
	}
}

/* Reports whether a packet is of a socket that is bound to an interface: its replies come in there
 * (redirect.h).
 */
static __always_inline bool is_of_bound(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_sock(skb);

	return sk && sk->bound_dev_if;
}

/* Reads an IP header without options, of a datagram that is not a fragment. It returns the length
 * of the payload, or 0.
 */
static __always_inline __u32 read_head4(const struct iphdr *h, struct hit_query *q)
{
	if (h->version != 4 || h->ihl != sizeof(*h) / 4 || h->protocol != PROTO_UDP ||
	    h->frag_off & bpf_htons(0x3fff))
		return 0;
	q->src[2] = bpf_htonl(0xffff);
	q->src[3] = h->saddr;
	q->dst[2] = bpf_htonl(0xffff);
	q->dst[3] = h->daddr;
	q->udp = ETH_HLEN + sizeof(*h);
	return bpf_ntohs(h->tot_len) - sizeof(*h);
}

static __always_inline __u32 read_head6(const struct ipv6hdr *h, struct hit_query *q)
{
	if (h->version != 6 || h->nexthdr != PROTO_UDP)
		return 0;
	__builtin_memcpy(q->src, &h->saddr, sizeof(q->src));
	__builtin_memcpy(q->dst, &h->daddr, sizeof(q->dst));
	q->udp = ETH_HLEN + sizeof(*h);
	return bpf_ntohs(h->payload_len);
}

/* Reads the headers of a datagram without options, extensions or fragments, and its length. Each
 * call of a helper costs about as much as all the rest, so that there is only one. The checks of
 * lengths also refuse padding, and what the sender has left to the device to split (GSO).
 */
static __always_inline bool read_datagram(struct __sk_buff *skb, struct hit_query *q)
{
	struct hit_frame f = {};
	const __be16 *udp = f.udp4;
	__u32 ip_len = 0;

	if (skb->gso_segs > 1 || skb->gso_size || skb->vlan_present ||
	    bpf_skb_load_bytes(skb, 0, &f.eth, HIT_FRAME))
		return false;
	if (f.eth.h_proto == bpf_htons(ETH_P_IP))
		ip_len = read_head4(&f.ip4, q);
	else if (f.eth.h_proto == bpf_htons(ETH_P_IPV6))
		ip_len = read_head6(&f.ip6, q);
	if (!ip_len)
		return false;
	if (!is_mapped(q->dst))
		udp = f.udp6;
	q->sport = udp[0];
	q->udp_len = udp[2];
	q->check = udp[3];
	q->len = bpf_ntohs(udp[2]) - UDP_HEADER;
	return ip_len == bpf_ntohs(udp[2]) && skb->len == q->udp + ip_len &&
	       udp[1] == listener_port && !is_service(udp[0]);
}

/* Returns the slot of a query if it has a class, which is written to the key. Otherwise user
 * space is asked for one, once for each meaning of the slot and each set of rules.
 */
static __always_inline struct hit_slot *find_class(struct hit_query *q, const struct hit_state *c,
						   struct hit_key *key)
{
	struct origin *o = bpf_map_lookup_elem(&origins, &q->slot);
	struct hit_slot *s = bpf_map_lookup_elem(&hit_slots, &q->slot);
	__u64 class, asked;
	__u32 gen;

	if (!o || !s || !o->key.port || is_mapped(o->key.addr) != is_mapped(q->dst))
		return 0;
	gen = *(volatile __u32 *)&o->gen;
	class = *(volatile __u64 *)&s->class;
	if (gen & 1)
		return 0; /* it gets another meaning now */
	if (class >> 32 == gen && (__u32) class >= (__u32)c->first_class) {
		key->class = class;
		return s;
	}
	asked = (__u64)gen << 32 | (__u32)c->first_class;
	if (s->asked != asked && !bpf_ringbuf_output(&hit_wanted, &q->slot, sizeof(q->slot), 0))
		s->asked = asked;
	return 0;
}

/* Reads the name of the question into the key, in lower case. The length is stored and not
 * returned: the verifier would continue with each possible one.
 */
LOCAL int read_name(struct hit_scratch *s)
{
	__u32 left = 0;

	s->name_len = 0;

	for (int i = 0; i < HIT_NAME; i++) {
		__u8 c = s->query[DNS_HEADER + i];

		if (!left) {
			if (!c) {
				s->name_len = i + 1;
				break;
			}
			if (c > 63)
				break;
			left = c;
		} else {
			left--;
			if (c >= 'A' && c <= 'Z')
				c |= 0x20;
		}
		s->key.name[i] = c;
	}
	return 0;
}

/* Reads an OPT record without options, the last thing in the message. Flags that are not
 * defined, and an extended response code, are unusual.
 */
static __always_inline bool read_opt(struct hit_query *q, const struct hit_scratch *s)
{
	const __u8 *opt;
	__u32 at = q->end;

	if (at > HIT_QUERY - DNS_OPT || q->len != at + DNS_OPT)
		return false;
	opt = s->query + bounded(at, 256);
	if (opt[0] || opt[1] || opt[2] != TYPE_OPT || opt[5] || opt[6] || (opt[7] & 0x7f) ||
	    opt[8] || opt[9] || opt[10])
		return false;
	q->edns = 1;
	q->dnssec_ok = opt[7] >> 7;
	q->size = opt[3] << 8 | opt[4];
	q->limit = q->size;
	if (q->limit < DNS_MIN_SIZE)
		q->limit = DNS_MIN_SIZE;
	if (q->limit > DNS_SIZE)
		q->limit = DNS_SIZE;
	return true;
}

/* Reads the message into the rest of the key. Its header has to be that of a query with one
 * question, recursion desired, and at most an OPT record.
 */
static __always_inline bool read_message(struct __sk_buff *skb, struct hit_query *q,
					 struct hit_scratch *s)
{
	__u32 len = q->len;
	__u8 *h = s->query;
	__u32 at;

	if (len < DNS_HEADER + 5 || len > HIT_QUERY)
		return false;
	if (bpf_skb_load_bytes(skb, q->udp + UDP_HEADER, s->query, bounded(len, 256)))
		return false;
	q->flags = h[3];
	if (h[2] != DNS_RD || (h[3] & ~(DNS_AD | DNS_CD)) || h[4] || h[5] != 1 || h[6] || h[7] ||
	    h[8] || h[9] || h[10] || h[11] > 1)
		return false;
	__builtin_memset(s->key.name, 0, sizeof(s->key.name));
	read_name(s);
	if (!s->name_len)
		return false;
	q->name_len = bounded(s->name_len, HIT_NAME + 1);
	at = DNS_HEADER + q->name_len;
	q->end = at + 4;
	q->limit = DNS_MIN_SIZE;
	if (q->end > len || (h[11] ? !read_opt(q, s) : q->end != len))
		return false;
	__builtin_memcpy(&s->key.qtype, &s->query[at], 2);
	__builtin_memcpy(&s->key.qclass, &s->query[at + 2], 2);
	s->key.flags = (q->dnssec_ok ? HIT_DO : 0) | (q->flags & DNS_CD ? HIT_CD : 0);
	return true;
}

#endif
