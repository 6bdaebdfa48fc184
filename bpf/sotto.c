// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// clang-format off
//go:build ignore

/* clang-format on */
/* The kernel half of Sotto: every constant, map and program that user space sees. The headers
 * declare the constants and maps, and contain the functions that the programs call.
 *
 * Runs on 5.10: no atomics that return a value (5.12), no bpf_loop (5.17), no kfuncs;
 * bpf_set_retval (5.18) is used if a constant allows it.
 */
#include "callers.h"
#include "collect.h"
#include "guard.h"
#include "hooks.h"

/* bpf_spin_lock and the sk_storage helpers do not require the GPL; BTF and future kfuncs may. */
char _license[] SEC("license") = "Dual BSD/GPL";

const volatile __be16 ports[MAX_PORTS];
const volatile __u32 port_count;
const volatile __be16 listener_port;
const volatile __u32 prefix4;
const volatile __u32 prefix4_mask;
const volatile __be32 prefix6[4];
const volatile __be32 prefix6_mask[4];
const volatile __u32 slot_count;
const volatile __u64 quota_max;
const volatile __u32 share_level;
const volatile __u64 share_base;
const volatile __u64 linger_ns;
const volatile __u8 has_set_retval;
const volatile __u8 recounts;
const volatile __u64 open_after_ns;
const volatile __u8 guarded;
const volatile __u8 guards_host;
const volatile __u64 home_cookie;
const volatile __u8 redirects_local;
const volatile __u8 one_command;
const volatile __u8 attributes;
const volatile __u8 knows_current;
const volatile __u8 knows_sender;
const volatile __u8 traces;
const volatile __u32 back_mark;
const volatile __u8 veth_host[6];
const volatile __u8 veth_inner[6];
const volatile __u16 virtual_tag;
const volatile __u16 answer_tag;
const volatile __u8 bit_positions[32] = {0,  1,	 28, 2,	 29, 14, 24, 3,	 30, 22, 20,
					 15, 25, 17, 4,	 8,  31, 27, 13, 23, 21, 19,
					 16, 7,	 26, 12, 18, 6,	 11, 5,	 10, 9};

struct settings_map settings SEC(".maps");
struct daemon_map daemon SEC(".maps");
struct links_map links SEC(".maps");
struct cgroup_set sealed SEC(".maps");
struct cgroup_set exclude SEC(".maps");
struct own_map own SEC(".maps");
struct counters_map counters SEC(".maps");
struct shares_map shares SEC(".maps");
struct arrivals_map arrivals SEC(".maps");
struct forward_map forward SEC(".maps");
struct slots_map slots SEC(".maps");
struct ticks_map ticks SEC(".maps");
struct origins_map origins SEC(".maps");
struct free_slots_map free_slots SEC(".maps");
struct hold_map connected SEC(".maps");
struct hold_map replaced SEC(".maps");
struct sent_map sent SEC(".maps");
struct named_map named SEC(".maps");
struct cgroup_set subtrees SEC(".maps");
struct askers_map askers SEC(".maps");
struct accepted_map accepted SEC(".maps");
struct flows_map flows SEC(".maps");
struct passed_map passed SEC(".maps");
struct locals_map locals SEC(".maps");
struct callers_map callers SEC(".maps");
struct senders_map senders SEC(".maps");
struct watch_map watch SEC(".maps");
struct drops_map drops SEC(".maps");

SEC("cgroup/connect4")
int sotto_connect4(struct bpf_sock_addr *ctx)
{
	return redirect_connect(ctx, false);
}

SEC("cgroup/connect6")
int sotto_connect6(struct bpf_sock_addr *ctx)
{
	return redirect_connect(ctx, true);
}

/* Also runs, with family AF_INET6, for an AF_INET6 socket that sends to a mapped address. */
SEC("cgroup/sendmsg4")
int sotto_sendmsg4(struct bpf_sock_addr *ctx)
{
	return redirect_send(ctx, false);
}

SEC("cgroup/sendmsg6")
int sotto_sendmsg6(struct bpf_sock_addr *ctx)
{
	return redirect_send(ctx, true);
}

SEC("cgroup/recvmsg4")
int sotto_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore(ctx, false, COUNT_REPLY);
}

SEC("cgroup/recvmsg6")
int sotto_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore(ctx, true, COUNT_REPLY);
}

SEC("cgroup/getpeername4")
int sotto_getpeername4(struct bpf_sock_addr *ctx)
{
	return restore(ctx, false, COUNT_PEER);
}

SEC("cgroup/getpeername6")
int sotto_getpeername6(struct bpf_sock_addr *ctx)
{
	return restore(ctx, true, COUNT_PEER);
}

/* The last close of a socket. Runs once per sealed cgroup if those are nested: the second run
 * finds nothing to release.
 */
SEC("cgroup/sock_release")
int sotto_sock_release(struct bpf_sock *sk)
{
	hold_release(bpf_sk_storage_get(&connected, sk, 0, 0));
	hold_release(bpf_sk_storage_get(&replaced, sk, 0, 0));
	return PASS;
}

/* Packets of sealed sockets, in every network namespace. */
SEC("cgroup_skb/egress")
int sotto_guard_socket(struct __sk_buff *skb)
{
	return !guard_socket(skb);
}

/* On the host's interfaces with Ethernet frames. */
SEC("tc")
int sotto_guard_out_frame(struct __sk_buff *skb)
{
	return guard_out(skb, true);
}

SEC("tc")
int sotto_guard_in_frame(struct __sk_buff *skb)
{
	return guard_in(skb, true);
}

/* On those with bare IP packets. */
SEC("tc")
int sotto_guard_out_ip(struct __sk_buff *skb)
{
	return guard_out(skb, false);
}

SEC("tc")
int sotto_guard_in_ip(struct __sk_buff *skb)
{
	return guard_in(skb, false);
}

/* On the host's interface of the listener's veth pair: replies from the listener. */
SEC("tc")
int sotto_guard_back(struct __sk_buff *skb)
{
	return redirect_back(skb);
}

/* Collects one slot that user space found idle. It runs on no interface, only by
 * BPF_PROG_TEST_RUN: programs for that purpose (SEC("syscall")) need 5.14. A loop over many
 * slots would exceed the limit of the verifier of 5.10.
 */
SEC("tc")
int sotto_collect(struct __sk_buff *skb)
{
	struct collect *c = (void *)(long)skb->data;

	if ((void *)(c + 1) > (void *)(long)skb->data_end)
		return 0;
	return collect(c);
}
