/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Constants of kernel headers that cannot be included together with linux/bpf.h. */
#ifndef SOTTO_KERNEL_H
#define SOTTO_KERNEL_H

#define PROTO_TCP 6	  /* IPPROTO_TCP */
#define PROTO_UDP 17	  /* IPPROTO_UDP */
#define PROTO_UDPLITE 136 /* IPPROTO_UDPLITE */
#define PROTO_MPTCP 262	  /* IPPROTO_MPTCP */
#define FAMILY_INET 2	  /* AF_INET */
#define FAMILY_INET6 10	  /* AF_INET6 */
#define FAMILY_PACKET 17  /* AF_PACKET */
#define TYPE_STREAM 1	  /* SOCK_STREAM */
#define TYPE_DGRAM 2	  /* SOCK_DGRAM */
#define TYPE_RAW 3	  /* SOCK_RAW */
#define TCP_STATE_CLOSE 7 /* TCP_CLOSE; also the state of an unconnected datagram socket */
#define LOOPBACK 1	  /* LOOPBACK_IFINDEX, in every network namespace */

#endif
