/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the hooks on sockets do. They redirect DNS of sealed cgroups to the listener, and
 * restore the original destination as the source of replies. is6 is a constant of each hook:
 * it selects the fields of the context that the hook may access.
 */
#ifndef SOTTO_HOOKS_H
#define SOTTO_HOOKS_H

#include "address.h"
#include "answers.h"
#include "callers.h"
#include "classify.h"
#include "counters.h"
#include "drops.h"
#include "holds.h"
#include "local.h"
#include "settings.h"
#include "slots.h"

#include <linux/errno.h>

/* Return values of a hook. */
#define PASS 1
#define DENY 0

/* What happens to a destination: it is sealed, allowed unchanged, or refused. A refusal has the
 * error for the client, and above it the counter of its reason.
 */
#define SEAL 0
#define ALLOW (-1)
#define REASON_SHIFT 16

/* Counts a reason, and returns the verdict that refuses with an error. The verifier follows each
 * verdict, so there are no more than are needed.
 */
static __always_inline int refuse(enum counter reason, int err)
{
	count(reason);
	return traces ? reason << REASON_SHIFT | err : err;
}

/* Reads the address of the context; IPv4 addresses become mapped ones. */
static __always_inline void get_addr(struct bpf_sock_addr *ctx, bool is6, __be32 addr[4])
{
	addr[0] = is6 ? ctx->user_ip6[0] : 0;
	addr[1] = is6 ? ctx->user_ip6[1] : 0;
	addr[2] = is6 ? ctx->user_ip6[2] : bpf_htonl(0xffff);
	addr[3] = is6 ? ctx->user_ip6[3] : ctx->user_ip4;
}

static __always_inline void set_addr(struct bpf_sock_addr *ctx, bool is6, const __be32 addr[4])
{
	if (!is6) {
		ctx->user_ip4 = addr[3];
		return;
	}
	ctx->user_ip6[0] = addr[0];
	ctx->user_ip6[1] = addr[1];
	ctx->user_ip6[2] = addr[2];
	ctx->user_ip6[3] = addr[3];
}

static __always_inline __be16 get_port(struct bpf_sock_addr *ctx)
{
	return (__be16)ctx->user_port;
}

/* Writes the virtual address of slot idx. A mapped address stays mapped: the socket uses IPv4. */
static __always_inline void set_slot(struct bpf_sock_addr *ctx, bool is6, bool mapped, __u32 idx)
{
	__be32 addr[4] = {prefix6[0], prefix6[1], prefix6[2],
			  bpf_htonl(bpf_ntohl(prefix6[3]) + idx)};

	if (mapped) {
		addr[0] = 0;
		addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = bpf_htonl(prefix4 + idx);
	}
	set_addr(ctx, is6, addr);
	ctx->user_port = listener_port;
}

/* bpf_set_retval with a sign-extended argument: since 7.2 the verifier checks that it is the
 * negative number of an error.
 */
static long (*const set_retval)(long retval) = (void *)BPF_FUNC_set_retval;

/* Carries out a verdict. Fail closed: a query that cannot be sealed is not sent. Before 5.18
 * the error is always EPERM.
 */
static __always_inline int apply(struct bpf_sock_addr *ctx, bool is6, bool mapped, int verdict,
				 __u32 idx)
{
	if (verdict > 0) {
		__be32 addr[4];

		get_addr(ctx, is6, addr);
		refuse_store(addr, get_port(ctx), ctx->protocol, verdict >> REASON_SHIFT);
		if (has_set_retval)
			set_retval(-(long)(verdict & ((1 << REASON_SHIFT) - 1)));
		return DENY;
	}
	if (verdict == SEAL)
		set_slot(ctx, is6, mapped, idx);
	return PASS;
}

/* Reports whether the packet would leave by an interface that the client chose instead of by
 * the route to the listener, and the guard would not redirect it and its reply. Only the host's
 * interfaces are guarded; a packet from another network namespace passes one of them.
 */
static __always_inline bool is_bound(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	struct bpf_sock *sk = ctx->sk;
	__u32 ifindex, *flags;

	if (!sk || !sk->bound_dev_if)
		return false;
	if (!guarded)
		return true;
	if (home_cookie && bpf_get_netns_cookie(ctx) != home_cookie)
		return false;
	ifindex = sk->bound_dev_if;
	flags = bpf_map_lookup_elem(&links, &ifindex);
	return flags ? *flags & LINK_STRICT && is_mapped(addr) : home_cookie != 0;
}

/* Reports whether a multicast or broadcast address reaches only this machine. If the guard
 * drops such packets it sees by which interface they leave, so the hooks allow them.
 */
static __always_inline bool is_local_group(struct bpf_sock_addr *ctx)
{
	struct guard *g = guard_state();
	struct bpf_sock *sk = ctx->sk;

	return (guarded && g && g->drop & DROP_PLAIN) || (sk && sk->bound_dev_if == LOOPBACK);
}

/* Returns the client's network namespace, as in struct key. */
static __always_inline __u32 client_netns(struct bpf_sock_addr *ctx)
{
	__u64 cookie;

	if (!home_cookie)
		return 0;
	cookie = bpf_get_netns_cookie(ctx);
	return cookie == home_cookie ? 0 : (__u32)cookie;
}

/* Reads the address that a socket is bound to. */
static __always_inline void source_of(struct bpf_sock *sk, __be32 addr[4])
{
	volatile struct bpf_sock *s = sk;
	__be32 v4 = s->src_ip4;
	__be32 v6[4] = {s->src_ip6[0], s->src_ip6[1], s->src_ip6[2], s->src_ip6[3]};

	choose_addr(addr, s->family == FAMILY_INET6, v4, v6);
}

/* Reports whether a socket sends from a loopback address or the loopback interface, and so
 * cannot reach the listener. Such a socket is for loopback destinations.
 */
static __always_inline bool is_bound_local(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__be32 addr[4];

	if (!redirects_local || !sk)
		return false;
	source_of(sk, addr);
	return sk->bound_dev_if == LOOPBACK || (addr[3] && is_loopback(addr));
}

/* Decides on a virtual address that a socket named itself. It is as valid as the original
 * destination for the workload that it was assigned to, and for a relay of the same user or
 * service, which forwards packets of that workload (slirp4netns, pasta). For any other the
 * listener would mistake the client's workload.
 */
static __always_inline int decide_virtual(struct bpf_sock_addr *ctx, struct key *key)
{
	__u32 idx = slot_of(key->addr);
	int verdict = ALLOW;

	if (is_own(ctx->sk) || is_to_host(key->addr, key->port))
		return ALLOW;
	if (!is_excluded()) {
		verdict = SEAL;
		if (!idx || key->port != listener_port || !carries_dns(ctx->protocol) ||
		    !slot_origin(idx, key) ||
		    (key->cgroup != bpf_get_current_cgroup_id() && !share_subtree(key->cgroup)))
			return refuse(COUNT_FOREIGN, EHOSTUNREACH);
	}
	/* The kernel itself names the peer for a socket that is connected to a mapped address. */
	if (!ctx->sk || (peer_slot(ctx->sk) != idx && !named_store(ctx->sk)))
		return refuse(COUNT_NO_MEMORY, ENOBUFS);
	return verdict;
}

/* Returns ALLOW, after counting the reason, if a query to a sealed port is not sealed. */
static __always_inline int decide_client(struct bpf_sock_addr *ctx)
{
	if (is_own(ctx->sk)) {
		count(COUNT_OWN);
		return ALLOW;
	}
	if (is_excluded()) {
		count(COUNT_EXCLUDED);
		return ALLOW;
	}
	if (is_open()) {
		count(COUNT_OPEN);
		return ALLOW;
	}
	return SEAL;
}

/* Decides on the destination in key->addr, and completes key if it is sealed. The family of the
 * socket and of its sockaddr are irrelevant: sends with AF_UNSPEC exist, and a mapped address
 * comes through the IPv4 hook.
 */
static __always_inline int decide(struct bpf_sock_addr *ctx, struct key *key)
{
	key->port = get_port(ctx);
	key->zero16 = 0;
	key->netns = 0;
	if (in_prefix(key->addr))
		return decide_virtual(ctx, key);
	if (!is_sealed_port(key->port) || !carries_dns(ctx->protocol))
		return ALLOW;
	key->netns = client_netns(ctx);
	if (is_kept(key->addr, home_cookie && !key->netns)) {
		count(COUNT_LOCAL);
		return ALLOW;
	}
	if (decide_client(ctx) == ALLOW)
		return ALLOW;
	name_loopback(key->addr);
	if (is_group(key->addr)) {
		if (is_local_group(ctx))
			return ALLOW;
		return refuse(COUNT_GROUP, EHOSTUNREACH);
	}
	key->cgroup = bpf_get_current_cgroup_id();
	named_clear(ctx->sk);
	if (is_bound_local(ctx))
		return refuse(COUNT_BOUND_LOCAL, EHOSTUNREACH);
	return is_bound(ctx, key->addr) ? refuse(COUNT_BOUND, EHOSTUNREACH) : SEAL;
}

/* Decides on a connect. If it is sealed the socket holds the slot in idx. */
static __always_inline int decide_connect(struct bpf_sock_addr *ctx, struct key *key, __u32 *idx)
{
	int verdict = decide(ctx, key);
	enum counter why;

	if (verdict == SEAL && ctx->protocol == PROTO_MPTCP && !recounts)
		return refuse(COUNT_REFUSED_MPTCP, EHOSTUNREACH);
	if (verdict > 0)
		return verdict;
	if (!hold_actual(ctx->sk)) {
		int refused = refuse(COUNT_NO_MEMORY, ENOBUFS);

		return verdict == SEAL ? refused : ALLOW;
	}
	if (verdict == ALLOW)
		return ALLOW;
	*idx = hold_next(ctx->sk, key, &why);
	if (!*idx)
		return refuse(why, ENOBUFS);
	caller_store(ctx->sk, key->cgroup == bpf_get_current_cgroup_id());
	count(COUNT_CONNECT);
	return SEAL;
}

/* Decides on a datagram of an unconnected socket. The guard checks that a reply is one. */
static __always_inline int decide_send(struct bpf_sock_addr *ctx, struct key *key, __u32 *idx)
{
	enum counter why;
	int verdict;

	if (asked_from(ctx, key->addr)) {
		count(COUNT_ANSWER);
		return ALLOW;
	}
	verdict = decide(ctx, key);

	if (verdict != SEAL)
		return verdict;
	if (!sent_store(ctx->sk))
		return refuse(COUNT_NO_MEMORY, ENOBUFS);
	*idx = slot_acquire(key, 0, &why);
	if (!*idx)
		return refuse(why, ENOBUFS);
	caller_store(ctx->sk, key->cgroup == bpf_get_current_cgroup_id());
	count(COUNT_SEND);
	return SEAL;
}

static __always_inline int redirect_connect(struct bpf_sock_addr *ctx, bool is6)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr(ctx, is6, key.addr);
	verdict = decide_connect(ctx, &key, &idx);
	return apply(ctx, is6, !is6 || is_mapped(key.addr), verdict, idx);
}

/* The IPv6 hook never sees a mapped address, and the kernel would refuse one written here. */
static __always_inline int redirect_send(struct bpf_sock_addr *ctx, bool is6)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr(ctx, is6, key.addr);
	/* The kernel has read the interface of the scope before this hook, and keeps it. In
	 * connect it reads the interface after the hook.
	 */
	if (is6 && !guarded && is_link_local(key.addr) && is_sealed_port(get_port(ctx)) &&
	    decide(ctx, &key) == SEAL)
		verdict = refuse(COUNT_BOUND, EHOSTUNREACH);
	else
		verdict = decide_send(ctx, &key, &idx);
	return apply(ctx, is6, !is6, verdict, idx);
}

/* Reads the original destination that the listener's address in addr stands for. */
static __always_inline bool find_origin(struct bpf_sock_addr *ctx, const __be32 addr[4],
					struct key *key)
{
	__u32 idx;

	if (get_port(ctx) != listener_port)
		return false;
	idx = slot_of(addr);
	if (!idx)
		return false;
	/* The IPv4 prefix stands for IPv4 destinations, the IPv6 prefix for IPv6 ones. */
	if (!slot_origin(idx, key) || is_mapped(key->addr) != is_mapped(addr)) {
		count(COUNT_UNKNOWN);
		return false;
	}
	return true;
}

/* Replaces the listener's address by the original destination, unless the socket had named the
 * listener's address itself. These hooks must return 1, and leave all other addresses
 * unchanged. The IPv6 hooks also see mapped addresses: those of replies to AF_INET6 sockets.
 */
static __always_inline int restore(struct bpf_sock_addr *ctx, bool is6, enum counter reason)
{
	__be32 addr[4];
	struct key key;

	get_addr(ctx, is6, addr);
	if (reason == COUNT_REPLY)
		asked_store(ctx, addr);
	if (find_origin(ctx, addr, &key) && !has_named(ctx->sk)) {
		set_addr(ctx, is6, key.addr);
		ctx->user_port = key.port;
		count(reason);
	}
	return PASS;
}

#endif
