/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writing of replies over the packets of their queries, with their checksums. The question is not
 * written, so that the client gets its own spelling back.
 */
#ifndef SOTTO_HITREPLY_H
#define SOTTO_HITREPLY_H

#include "hitquery.h"
#include "hits.h"

/* Adds the OPT record, and zero to the next word of a checksum. It returns the new length. */
static __always_inline __u32 append_opt(struct hit_scratch *s, const struct hit_query *q, __u32 len)
{
	__u8 *opt;

	if (len > HIT_LONG)
		return 0;
	opt = s->reply + bounded(len, HIT_REPLY);
	__builtin_memset(opt, 0, DNS_OPT + 4);
	opt[2] = TYPE_OPT;
	opt[3] = DNS_SIZE >> 8;
	opt[4] = DNS_SIZE & 0xff;
	opt[7] = q->dnssec_ok << 7;
	return len + DNS_OPT;
}

/* Writes the header of the reply over that of the query. */
static __always_inline void make_header(struct hit_scratch *s, const struct hit_query *q,
					const struct hit *h)
{
	__u8 *d = s->query;
	__be16 additional = bpf_htons(bpf_ntohs(h->records[2]) + q->edns);

	d[2] = DNS_QR | DNS_RD;
	d[3] = DNS_RA | (q->flags & DNS_CD) | (h->rcode & 0xf);
	if (h->ad && ((q->flags & DNS_AD) || q->dnssec_ok))
		d[3] |= DNS_AD;
	__builtin_memcpy(d + 6, &h->records[0], 2);
	__builtin_memcpy(d + 8, &h->records[1], 2);
	__builtin_memcpy(d + 10, &additional, 2);
}

/* Returns a checksum in 16 bits. */
static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Returns the sum of the header of the message. */
static __always_inline __u32 sum_header(const struct hit_scratch *s)
{
	const __u16 *w = (const void *)s->query;
	__u32 sum = 0;

	for (int i = 0; i < DNS_HEADER / 2; i++)
		sum += w[i];
	return sum;
}

/* Returns the sum of the OPT record of the query, as if it began at an even offset. */
static __always_inline __u32 sum_opt(const struct hit_query *q)
{
	if (!q->edns)
		return 0;
	return bpf_htons(TYPE_OPT << 8 | q->size >> 8) + bpf_htons((q->size & 0xff) << 8) +
	       bpf_htons(q->dnssec_ok << 7);
}

/* Exchanges the bytes of a sum if what was added begins at an odd offset. */
static __always_inline __u32 sum_at(__u32 at, __u32 sum)
{
	sum = fold(sum);
	return at & 1 ? (sum >> 8 | sum << 8) & 0xffff : sum;
}

/* Returns the checksum of what follows the question, as if it began at an even offset. */
LOCAL int sum_reply(struct hit_scratch *s, __u32 len)
{
	__u32 sum = 0;

	for (__u32 i = 0; i < HIT_REPLY / HIT_CHUNK; i++) {
		__u32 n = HIT_CHUNK;

		if (i * HIT_CHUNK >= len)
			break;
		if (len - i * HIT_CHUNK < HIT_CHUNK)
			n = 4 * bounded((len - i * HIT_CHUNK + 3) / 4, HIT_CHUNK / 4);
		sum = bpf_csum_diff(0, 0, (void *)&s->reply[i * HIT_CHUNK], n, sum);
	}
	return fold(sum);
}

/* Returns how the checksum of the payload changes, in one's complement. The question does not
 * change. The header in s->query becomes that of the reply.
 */
static __always_inline __u32 change_payload(struct hit_scratch *s, const struct hit_query *q,
					    const struct hit *h, __u32 len)
{
	__u32 old = fold(sum_header(s) + sum_at(q->end, sum_opt(q)));

	make_header(s, q, h);
	return fold((__u64)sum_header(s) + sum_at(q->end, sum_reply(s, len)) + (~old & 0xffff));
}

static __always_inline void make_ip4(struct iphdr *h, const struct hit_query *q, __u32 udp_len)
{
	__u32 sum = 0;

	h->version = 4;
	h->ihl = sizeof(*h) / 4;
	h->tot_len = bpf_htons(sizeof(*h) + udp_len);
	h->frag_off = bpf_htons(0x4000); /* do not fragment */
	h->ttl = 64;
	h->protocol = PROTO_UDP;
	h->saddr = q->dst[3];
	h->daddr = q->src[3];
	for (__u32 i = 0; i < sizeof(*h) / 2; i++)
		sum += ((__u16 *)h)[i];
	h->check = ~fold(sum);
}

static __always_inline void make_ip6(struct ipv6hdr *h, const struct hit_query *q, __u32 udp_len)
{
	h->version = 6;
	h->payload_len = bpf_htons(udp_len);
	h->nexthdr = PROTO_UDP;
	h->hop_limit = 64;
	__builtin_memcpy(&h->saddr, q->dst, sizeof(q->dst));
	__builtin_memcpy(&h->daddr, q->src, sizeof(q->src));
}

static __always_inline void make_udp(__be16 *h, const struct hit_query *q, __u32 udp_len)
{
	h[0] = listener_port;
	h[1] = q->sport;
	h[2] = bpf_htons(udp_len);
	h[3] = q->check; /* see change_checksum */
}

/* Writes the headers, as the listener would send them, and that of the message. Each call of a
 * helper costs about as much as all the rest.
 */
static __always_inline bool write_headers(struct __sk_buff *skb, const struct hit_scratch *s,
					  const struct hit_query *q, __u32 udp_len)
{
	struct hit_frame f = {};

	for (int i = 0; i < ETH_ALEN; i++) {
		f.eth.h_dest[i] = veth_host[i];
		f.eth.h_source[i] = veth_inner[i];
	}
	if (is_mapped(q->dst)) {
		f.eth.h_proto = bpf_htons(ETH_P_IP);
		make_ip4(&f.ip4, q, udp_len);
		make_udp(f.udp4, q, udp_len);
		__builtin_memcpy(f.dns4, s->query, DNS_HEADER);
		return !bpf_skb_store_bytes(skb, 0, &f.eth, HIT_FRAME - 20 + DNS_HEADER, 0);
	}
	f.eth.h_proto = bpf_htons(ETH_P_IPV6);
	make_ip6(&f.ip6, q, udp_len);
	make_udp(f.udp6, q, udp_len);
	__builtin_memcpy(f.dns6, s->query, DNS_HEADER);
	return !bpf_skb_store_bytes(skb, 0, &f.eth, HIT_FRAME + DNS_HEADER, 0);
}

/* Changes the checksum of UDP. Exchanging addresses and ports does not change it. The packet of a
 * local socket has only the sum of the pseudo header so far, from which the kernel or the device
 * makes the checksum; bpf_l4_csum_replace changes what there is, and leaves a datagram without a
 * checksum alone.
 */
static __always_inline bool change_checksum(struct __sk_buff *skb, const struct hit_query *q,
					    __u32 udp_len, __u32 diff)
{
	__u32 longer = fold((__u64)bpf_htons(udp_len) + (~q->udp_len & 0xffff));
	__u32 check = q->udp + 6;

	return !bpf_l4_csum_replace(skb, check, 0, longer,
				    BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) &&
	       !bpf_l4_csum_replace(skb, check, 0, fold((__u64)diff + longer),
				    BPF_F_MARK_MANGLED_0);
}

/* Writes the reply into the packet, which has its length. */
static __always_inline bool write_reply(struct __sk_buff *skb, struct hit_scratch *s,
					const struct hit_query *q, __u32 rest, __u32 diff)
{
	__u32 udp_len = UDP_HEADER + q->end + rest, at = q->udp + UDP_HEADER;

	return write_headers(skb, s, q, udp_len) && change_checksum(skb, q, udp_len, diff) &&
	       !bpf_skb_store_bytes(skb, at + q->end, s->reply, bounded(rest, HIT_REPLY), 0);
}

#endif
