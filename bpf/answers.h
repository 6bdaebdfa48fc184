/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Replies of nameservers inside the seal to clients whose source port is a DNS port. Such a
 * reply looks like a query to the hooks, which see no payload, and is not redirected. Whether it
 * is one is checked by the guard. A query is never let through: it has QR=0 (RFC 1035).
 */
#ifndef SOTTO_ANSWERS_H
#define SOTTO_ANSWERS_H

#include "address.h"
#include "classify.h"
#include "packet.h"

/* How long a nameserver may take for a reply. */
#define ANSWER_NS 30000000000ULL

#define DNS_QR 0x80

/* A client with a DNS port as its source port, of one socket. */
struct asker {
	__be32 addr[4];
	__u64 cookie;
	__be16 port;
	__u16 zero16;
	__u32 zero32;
};

/* When a socket last received a datagram of that client. */
struct askers_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct asker);
	__type(value, __u64);
};
extern struct askers_map askers SEC(".maps");

/* A connection from a DNS port to a DNS port of this machine. */
struct accepted {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 zero;
};

/* Connections that this machine accepted. */
struct accepted_map {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct accepted);
	__type(value, __u32);
};
extern struct accepted_map accepted SEC(".maps");

/* Reports whether a socket may be that of a nameserver whose client has a DNS port, and the
 * guard would drop a query.
 */
static __always_inline bool is_server(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct guard *g;

	if (!guarded || !sk || ctx->protocol != PROTO_UDP ||
	    !is_sealed_port(bpf_htons(sk->src_port)) || !is_sealed_port((__be16)ctx->user_port))
		return false;
	g = guard_state();
	return g && g->drop & DROP_PLAIN;
}

static __always_inline void asker_of(struct bpf_sock_addr *ctx, const __be32 addr[4],
				     struct asker *a)
{
	__builtin_memset(a, 0, sizeof(*a));
	__builtin_memcpy(a->addr, addr, sizeof(a->addr));
	a->cookie = bpf_get_socket_cookie(ctx);
	a->port = (__be16)ctx->user_port;
}

/* Stores the client of a datagram that a nameserver receives. */
static __always_inline void asked_store(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	struct asker a;
	__u64 now;

	if (!is_server(ctx) || in_prefix(addr))
		return;
	asker_of(ctx, addr, &a);
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&askers, &a, &now, BPF_ANY);
}

/* Reports whether a nameserver sends to a client from which it has received a datagram. */
static __always_inline bool asked_from(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	struct asker a;
	__u64 *at;

	if (!is_server(ctx))
		return false;
	asker_of(ctx, addr, &a);
	at = bpf_map_lookup_elem(&askers, &a);
	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)ANSWER_NS;
}

static __always_inline bool is_udp_answer(struct __sk_buff *skb, const struct packet *p,
					  struct bpf_sock *sk)
{
	__u8 flags;

	return sk->type == TYPE_DGRAM && sk->src_port == bpf_ntohs(p->sport) &&
	       !load(skb, p, p->transport + 8 + 2, &flags, 1) && flags & DNS_QR;
}

/* A connection is accepted if this machine has sent SYN and ACK. The socket of a segment may be
 * that of the request, which is not a full one.
 */
static __always_inline bool is_tcp_answer(const struct packet *p)
{
	struct accepted a = {.sport = p->sport, .dport = p->dport};
	__u32 yes = 1;

	__builtin_memcpy(a.src, p->src, sizeof(a.src));
	__builtin_memcpy(a.dst, p->dst, sizeof(a.dst));
	if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		bpf_map_update_elem(&accepted, &a, &yes, BPF_ANY);
		return true;
	}
	return !(p->tcp_flags & TCP_SYN) && bpf_map_lookup_elem(&accepted, &a);
}

/* Reports whether a packet to a DNS port is a reply from a DNS port. read_ports comes first. */
static __always_inline bool is_answer(struct __sk_buff *skb, const struct packet *p,
				      struct bpf_sock *sk)
{
	if (!is_sealed_port(p->sport))
		return false;
	if (p->protocol == PROTO_TCP)
		return (!sk || sk->type == TYPE_STREAM) && is_tcp_answer(p);
	return sk && p->protocol == PROTO_UDP && is_udp_answer(skb, p, sk);
}

#endif
