// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// clang-format off
//go:build ignore

/* clang-format on */
/* Counts the sockets that hold each slot: an iterator (Documentation/bpf/bpf_iterators.rst,
 * Linux 5.9) over the socket storage of all network namespaces. It is a separate object
 * because it needs the kernel's BTF, which not every kernel has. User space runs it once over
 * `connected` and once over `replaced`.
 */
#include "address.h"
#include "kernel.h"

char _license[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 prefix4;
const volatile __u32 prefix4_mask;
const volatile __be32 prefix6[4];
const volatile __be32 prefix6_mask[4];

/* Sockets per slot. Index 0, which is not a slot, counts the sockets that are connected to a
 * virtual address.
 */
struct counted_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
};
struct counted_map counted SEC(".maps");

/* The part of the kernel's structs that is read here; the loader relocates the offsets. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
};

struct sock {
	struct sock_common __sk_common;
};
#pragma clang attribute pop

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	__u32 *value;
};

static __always_inline void count_at(__u32 idx)
{
	__u32 *n = bpf_map_lookup_elem(&counted, &idx);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Reports whether a socket is connected to a virtual address. */
static __always_inline bool is_connected(struct sock *sk)
{
	struct sock_common *c = &sk->__sk_common;
	__be32 addr[4] = {0, 0, bpf_htonl(0xffff), c->skc_daddr};

	if (!c->skc_dport || c->skc_state == TCP_STATE_CLOSE)
		return false;
	if (c->skc_family == FAMILY_INET6) {
		addr[0] = c->skc_v6_daddr.in6_u.u6_addr32[0];
		addr[1] = c->skc_v6_daddr.in6_u.u6_addr32[1];
		addr[2] = c->skc_v6_daddr.in6_u.u6_addr32[2];
		addr[3] = c->skc_v6_daddr.in6_u.u6_addr32[3];
	}
	return in_prefix(addr);
}

SEC("iter/bpf_sk_storage_map")
int sotto_count_references(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	__u32 *hold = ctx->value;

	if (!sk || !hold)
		return 0; /* the last call of an iteration */
	if (*hold)
		count_at(*hold);
	if (is_connected(sk))
		count_at(0);
	return 0;
}
