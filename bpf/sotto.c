// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// clang-format off
//go:build ignore

/* clang-format on */
/* The kernel half of Sotto, and its hooks on sockets: they lead DNS of sealed cgroups to
 * the listener, and let replies carry the nameserver's own address.
 *
 * Runs on 5.10: no atomics that return a value (5.12), no bpf_loop (5.17), no
 * kfuncs; bpf_set_retval (5.18) is behind a constant.
 */
#include "classify.h"
#include "collect.h"
#include "counters.h"
#include "guard.h"
#include "holds.h"
#include "settings.h"
#include "slots.h"

#include <linux/errno.h>

#define PASS 1
#define DENY 0

/* Fail closed: a query that cannot be sealed is not sent. Before 5.18 the kernel says
 * EPERM, whatever the reason.
 */
static __always_inline int deny(int err)
{
	if (has_set_retval)
		bpf_set_retval(-err);
	return DENY;
}

/* Whether the packet would leave by an interface that the client chose instead of by
 * the route to the listener, and nobody would lead it there and its reply back. Only
 * the host's interfaces are guarded; from another network namespace the packet comes to
 * one of them.
 */
static __always_inline bool is_bound(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	struct bpf_sock *sk = ctx->sk;
	__u32 ifindex, *is;

	if (!sk || !sk->bound_dev_if)
		return false;
	if (guarded) {
		if (home_cookie && bpf_get_netns_cookie(ctx) != home_cookie)
			return false;
		ifindex = sk->bound_dev_if;
		is = bpf_map_lookup_elem(&links, &ifindex);
		if (is ? !(*is & LINK_STRICT) || !is_mapped(addr) : !home_cookie)
			return false;
	}
	count(COUNT_BOUND);
	return true;
}

static __always_inline void get_addr4(struct bpf_sock_addr *ctx, __be32 addr[4])
{
	addr[0] = 0;
	addr[1] = 0;
	addr[2] = bpf_htonl(0xffff);
	addr[3] = ctx->user_ip4;
}

static __always_inline void get_addr6(struct bpf_sock_addr *ctx, __be32 addr[4])
{
	addr[0] = ctx->user_ip6[0];
	addr[1] = ctx->user_ip6[1];
	addr[2] = ctx->user_ip6[2];
	addr[3] = ctx->user_ip6[3];
}

static __always_inline void set_addr6(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	ctx->user_ip6[0] = addr[0];
	ctx->user_ip6[1] = addr[1];
	ctx->user_ip6[2] = addr[2];
	ctx->user_ip6[3] = addr[3];
}

static __always_inline __be16 get_port(struct bpf_sock_addr *ctx)
{
	return (__be16)ctx->user_port;
}

static __always_inline void to_slot4(struct bpf_sock_addr *ctx, __u32 idx)
{
	ctx->user_ip4 = bpf_htonl(prefix4 + idx);
	ctx->user_port = listener_port;
}

/* A mapped address stays mapped: the socket speaks IPv4. */
static __always_inline void to_slot6(struct bpf_sock_addr *ctx, __u32 idx, bool mapped)
{
	__be32 addr[4] = {prefix6[0], prefix6[1], prefix6[2],
			  bpf_htonl(bpf_ntohl(prefix6[3]) + idx)};

	if (mapped) {
		addr[0] = 0;
		addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = bpf_htonl(prefix4 + idx);
	}
	set_addr6(ctx, addr);
	ctx->user_port = listener_port;
}

/* What becomes of a destination: it is sealed, left alone, or refused with an error. */
#define SEAL 0
#define LEAVE (-1)

/* Reports whether a multicast or broadcast address is for this machine only. Where the
 * guard drops such packets it sees by which interface they leave, so the hooks need not.
 */
static __always_inline bool is_group_here(struct bpf_sock_addr *ctx)
{
	struct guard *g = guard_state();
	struct bpf_sock *sk = ctx->sk;

	return (guarded && g && g->drop & DROP_PLAIN) || (sk && sk->bound_dev_if == LOOPBACK);
}

/* A virtual address stands for the nameserver that this workload was given it for, and is
 * as good as that one's own. Any other would have the listener take the client for another
 * workload.
 */
static __always_inline int judge_virtual(struct bpf_sock_addr *ctx, struct key *key)
{
	__u32 idx = slot_of(key->addr);

	if (is_own(ctx->sk) || is_excluded())
		return LEAVE;
	if (idx && key->port == listener_port && carries_dns(ctx->protocol) &&
	    slot_origin(idx, key) && key->cgroup == bpf_get_current_cgroup_id())
		return SEAL;
	count(COUNT_FOREIGN);
	return EHOSTUNREACH;
}

/* Decides about the destination in key->addr, and completes key where it is sealed. The
 * family of the socket and of its sockaddr say nothing: AF_UNSPEC sends are real, and a
 * mapped address comes through the IPv4 hook.
 */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct key *key)
{
	key->port = get_port(ctx);
	key->zero16 = 0;
	key->zero32 = 0;
	if (in_prefix(key->addr))
		return judge_virtual(ctx, key);
	if (!is_sealed_port(key->port) || !carries_dns(ctx->protocol) || is_loopback(key->addr))
		return LEAVE;
	if (is_own(ctx->sk)) {
		count(COUNT_OWN);
		return LEAVE;
	}
	if (is_excluded()) {
		count(COUNT_EXCLUDED);
		return LEAVE;
	}
	if (is_open()) {
		count(COUNT_OPEN);
		return LEAVE;
	}
	if (is_group(key->addr)) {
		if (is_group_here(ctx))
			return LEAVE;
		count(COUNT_GROUP);
		return EHOSTUNREACH;
	}
	key->cgroup = bpf_get_current_cgroup_id();
	return is_bound(ctx, key->addr) ? EHOSTUNREACH : SEAL;
}

/* Decides about a socket that connects, and has it hold the slot in idx where it is sealed. */
static __always_inline int judge_connect(struct bpf_sock_addr *ctx, struct key *key, __u32 *idx)
{
	int verdict = judge(ctx, key);

	if (verdict == SEAL && ctx->protocol == PROTO_MPTCP && !recounts) {
		count(COUNT_REFUSED_MPTCP);
		verdict = EHOSTUNREACH;
	}
	if (verdict > 0)
		return verdict;
	if (!hold_actual(ctx->sk)) {
		count(COUNT_NO_MEMORY);
		return verdict == SEAL ? ENOBUFS : LEAVE;
	}
	if (verdict == LEAVE)
		return LEAVE;
	*idx = hold_next(ctx->sk, key);
	if (!*idx)
		return ENOBUFS;
	count(COUNT_CONNECT);
	return SEAL;
}

/* The same for a datagram of an unconnected socket. */
static __always_inline int judge_send(struct bpf_sock_addr *ctx, struct key *key, __u32 *idx)
{
	int verdict = judge(ctx, key);

	if (verdict != SEAL)
		return verdict;
	if (!hold_briefly(ctx->sk)) {
		count(COUNT_NO_MEMORY);
		return ENOBUFS;
	}
	*idx = slot_acquire(key, 0);
	if (!*idx)
		return ENOBUFS;
	count(COUNT_SEND);
	return SEAL;
}

SEC("cgroup/connect4")
int sotto_connect4(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr4(ctx, key.addr);
	verdict = judge_connect(ctx, &key, &idx);
	if (verdict > 0)
		return deny(verdict);
	if (verdict == SEAL)
		to_slot4(ctx, idx);
	return PASS;
}

SEC("cgroup/connect6")
int sotto_connect6(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr6(ctx, key.addr);
	verdict = judge_connect(ctx, &key, &idx);
	if (verdict > 0)
		return deny(verdict);
	if (verdict == SEAL)
		to_slot6(ctx, idx, is_mapped(key.addr));
	return PASS;
}

/* Also runs, with family AF_INET6, for an AF_INET6 socket that sends to a mapped
 * address.
 */
SEC("cgroup/sendmsg4")
int sotto_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr4(ctx, key.addr);
	verdict = judge_send(ctx, &key, &idx);
	if (verdict > 0)
		return deny(verdict);
	if (verdict == SEAL)
		to_slot4(ctx, idx);
	return PASS;
}

/* Never sees a mapped address, and the kernel would refuse one put in here. */
SEC("cgroup/sendmsg6")
int sotto_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx = 0;
	int verdict;

	get_addr6(ctx, key.addr);
	/* The kernel took the scope's interface before it asked, and keeps to it. In
	 * connect it asks first.
	 */
	if (!guarded && is_link_local(key.addr) && is_sealed_port(get_port(ctx)) &&
	    judge(ctx, &key) == SEAL) {
		count(COUNT_BOUND);
		return deny(EHOSTUNREACH);
	}
	verdict = judge_send(ctx, &key, &idx);
	if (verdict > 0)
		return deny(verdict);
	if (verdict == SEAL)
		to_slot6(ctx, idx, false);
	return PASS;
}

/* What the listener's address in addr stands for. These hooks only inform: they
 * must return 1, and leave alone what they do not know.
 */
static __always_inline bool find_origin(struct bpf_sock_addr *ctx, const __be32 addr[4],
					struct key *key)
{
	__u32 idx;

	if (get_port(ctx) != listener_port)
		return false;
	idx = slot_of(addr);
	if (!idx)
		return false;
	/* An IPv4 origin answers from the IPv4 prefix, an IPv6 one from the other. */
	if (!slot_origin(idx, key) || is_mapped(key->addr) != is_mapped(addr)) {
		count(COUNT_UNKNOWN);
		return false;
	}
	return true;
}

static __always_inline bool restore4(struct bpf_sock_addr *ctx)
{
	__be32 addr[4];
	struct key key;

	get_addr4(ctx, addr);
	if (!find_origin(ctx, addr, &key))
		return false;
	ctx->user_ip4 = key.addr[3];
	ctx->user_port = key.port;
	return true;
}

/* Also for mapped addresses: an AF_INET6 socket's replies come this way. */
static __always_inline bool restore6(struct bpf_sock_addr *ctx)
{
	__be32 addr[4];
	struct key key;

	get_addr6(ctx, addr);
	if (!find_origin(ctx, addr, &key))
		return false;
	set_addr6(ctx, key.addr);
	ctx->user_port = key.port;
	return true;
}

SEC("cgroup/recvmsg4")
int sotto_recvmsg4(struct bpf_sock_addr *ctx)
{
	if (restore4(ctx))
		count(COUNT_REPLY);
	return PASS;
}

SEC("cgroup/recvmsg6")
int sotto_recvmsg6(struct bpf_sock_addr *ctx)
{
	if (restore6(ctx))
		count(COUNT_REPLY);
	return PASS;
}

SEC("cgroup/getpeername4")
int sotto_getpeername4(struct bpf_sock_addr *ctx)
{
	if (restore4(ctx))
		count(COUNT_PEER);
	return PASS;
}

SEC("cgroup/getpeername6")
int sotto_getpeername6(struct bpf_sock_addr *ctx)
{
	if (restore6(ctx))
		count(COUNT_PEER);
	return PASS;
}

/* The last close of a socket. Where two sealed cgroups are nested this runs twice:
 * the second finds nothing.
 */
SEC("cgroup/sock_release")
int sotto_sock_release(struct bpf_sock *sk)
{
	hold_drop(bpf_sk_storage_get(&connected, sk, 0, 0));
	hold_drop(bpf_sk_storage_get(&replaced, sk, 0, 0));
	return PASS;
}

/* bpf_spin_lock and the sk_storage helpers need none; BTF and future kfuncs may. */
char _license[] SEC("license") = "Dual BSD/GPL";
