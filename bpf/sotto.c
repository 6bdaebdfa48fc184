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
#include "counters.h"
#include "guard.h"
#include "settings.h"
#include "slots.h"

#include <linux/errno.h>

#define PASS 1
#define DENY 0

/* The slot that a socket is connected to, or 0. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} connected SEC(".maps");

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

/* Whether the destination in key is to be sealed; completes key if so. The family
 * of the socket and of its sockaddr say nothing: AF_UNSPEC sends are real, and a
 * mapped address comes through the IPv4 hook.
 */
static __always_inline bool is_sealed(struct bpf_sock_addr *ctx, struct key *key)
{
	key->port = get_port(ctx);
	key->zero16 = 0;
	key->zero32 = 0;
	if (!is_sealed_port(key->port) || !carries_dns(ctx->protocol) || is_exempt(key->addr))
		return false;
	if (is_own(ctx->sk)) {
		count(COUNT_OWN);
		return false;
	}
	if (is_excluded()) {
		count(COUNT_EXCLUDED);
		return false;
	}
	if (is_open()) {
		count(COUNT_OPEN);
		return false;
	}
	key->cgroup = bpf_get_current_cgroup_id();
	return true;
}

/* Whether the client names a virtual address itself, and not one of its own workload's:
 * the listener would take it for somebody else.
 */
static __always_inline bool is_foreign(struct bpf_sock_addr *ctx, const __be32 addr[4])
{
	__u32 idx = slot_of(addr);
	struct key key;

	if (!idx || is_own(ctx->sk) || is_excluded())
		return false;
	if (slot_origin(idx, &key) && key.cgroup == bpf_get_current_cgroup_id())
		return false;
	count(COUNT_FOREIGN);
	return true;
}

/* The socket connects elsewhere: its old slot goes. */
static __always_inline int leave_slot(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 *held = sk ? bpf_sk_storage_get(&connected, sk, 0, 0) : 0;
	__u32 old;

	if (held && *held) {
		old = *held;
		*held = 0;
		slot_release(old);
	}
	return PASS;
}

/* Takes a slot for a socket that connects, and keeps it in the socket: 0 if there
 * is none, and the socket keeps what it had. The new slot comes before the old one
 * goes, so that connecting twice to the same place keeps the slot.
 */
static __always_inline __u32 connect_slot(struct bpf_sock_addr *ctx, const struct key *key)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 *held, idx, old;

	if (!sk)
		return 0;
	held = bpf_sk_storage_get(&connected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!held) {
		count(COUNT_NO_MEMORY);
		return 0;
	}
	idx = slot_acquire(key, true);
	if (!idx)
		return 0;
	old = *held; /* the socket is locked: no other connect of it runs */
	*held = idx;
	if (old)
		slot_release(old);
	count(COUNT_CONNECT);
	return idx;
}

SEC("cgroup/connect4")
int sotto_connect4(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx;

	get_addr4(ctx, key.addr);
	if (is_foreign(ctx, key.addr))
		return deny(EHOSTUNREACH);
	if (!is_sealed(ctx, &key))
		return leave_slot(ctx);
	if (is_bound(ctx, key.addr))
		return deny(EHOSTUNREACH);
	idx = connect_slot(ctx, &key);
	if (!idx)
		return deny(ENOBUFS);
	to_slot4(ctx, idx);
	return PASS;
}

SEC("cgroup/connect6")
int sotto_connect6(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx;

	get_addr6(ctx, key.addr);
	if (is_foreign(ctx, key.addr))
		return deny(EHOSTUNREACH);
	if (!is_sealed(ctx, &key))
		return leave_slot(ctx);
	if (is_bound(ctx, key.addr))
		return deny(EHOSTUNREACH);
	idx = connect_slot(ctx, &key);
	if (!idx)
		return deny(ENOBUFS);
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
	__u32 idx;

	get_addr4(ctx, key.addr);
	if (is_foreign(ctx, key.addr))
		return deny(EHOSTUNREACH);
	if (!is_sealed(ctx, &key))
		return PASS;
	if (is_bound(ctx, key.addr))
		return deny(EHOSTUNREACH);
	idx = slot_acquire(&key, false);
	if (!idx)
		return deny(ENOBUFS);
	to_slot4(ctx, idx);
	count(COUNT_SEND);
	return PASS;
}

/* Never sees a mapped address, and the kernel would refuse one put in here. */
SEC("cgroup/sendmsg6")
int sotto_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct key key;
	__u32 idx;

	get_addr6(ctx, key.addr);
	if (is_foreign(ctx, key.addr))
		return deny(EHOSTUNREACH);
	if (!is_sealed(ctx, &key))
		return PASS;
	if (is_bound(ctx, key.addr))
		return deny(EHOSTUNREACH);
	/* The kernel took the scope's interface before it asked, and keeps to it. In
	 * connect it asks first.
	 */
	if (!guarded && is_link_local(key.addr)) {
		count(COUNT_BOUND);
		return deny(EHOSTUNREACH);
	}
	idx = slot_acquire(&key, false);
	if (!idx)
		return deny(ENOBUFS);
	to_slot6(ctx, idx, false);
	count(COUNT_SEND);
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
	__u32 *held = bpf_sk_storage_get(&connected, sk, 0, 0);
	__u32 old;

	if (held && *held) {
		old = *held;
		*held = 0;
		slot_release(old);
	}
	return PASS;
}

/* bpf_spin_lock and the sk_storage helpers need none; BTF and future kfuncs may. */
char _license[] SEC("license") = "Dual BSD/GPL";
