/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One per-CPU counter per reason of a verdict. */
#ifndef SOTTO_COUNTERS_H
#define SOTTO_COUNTERS_H

#include "settings.h"

/* Go reads the names from the object's BTF. Append only: the map is pinned. */
enum counter {
	COUNT_CONNECT,	      /* redirected: a connect */
	COUNT_SEND,	      /* redirected: a datagram of an unconnected socket */
	COUNT_REPLY,	      /* restored: the source address of a datagram */
	COUNT_PEER,	      /* restored: the result of getpeername */
	COUNT_OWN,	      /* allowed: Sotto's own socket */
	COUNT_EXCLUDED,	      /* allowed: an excluded cgroup */
	COUNT_SLOT_NEW,	      /* a slot was taken from the queue */
	COUNT_SLOT_FREED,     /* a slot was freed: its last socket was closed */
	COUNT_SLOT_COLLECTED, /* a slot was freed: it was idle */
	COUNT_SLOT_RACE,      /* a slot was freed: two runs took one for the same key */
	COUNT_NO_SLOT,	      /* refused: no slot is free */
	COUNT_OVER_QUOTA,     /* refused: the cgroup holds its share */
	COUNT_NO_MEMORY,      /* refused: no memory for the socket's reference */
	COUNT_UNKNOWN,	      /* not restored: the slot never had an original destination */
	COUNT_BOUND,	      /* refused: the socket is bound to an interface */
	COUNT_OPEN,	      /* allowed: the daemon is dead, and the seal fails open */
	/* The guard. STOPPED_* packets are dropped only where struct guard enables that. */
	COUNT_STOPPED_SOCKET,	  /* a plain query of a socket that no hook has seen */
	COUNT_STOPPED_PACKET,	  /* a plain query of a packet socket */
	COUNT_STOPPED_FORWARDED,  /* a plain query without a local socket */
	COUNT_STOPPED_SILENT,	  /* a segment to port 53 without a query */
	COUNT_STOPPED_OPAQUE,	  /* headers that hide the transport header */
	COUNT_REDIRECTED_IN,	  /* redirected to the listener: a packet of a bound socket */
	COUNT_REDIRECTED_BACK,	  /* redirected to the interface of a bound socket: a reply */
	COUNT_ESCAPED,		  /* dropped: from or to the prefix, about to leave the machine */
	COUNT_OUTSIDE,		  /* dropped: from or to the prefix, received from outside */
	COUNT_FOREIGN,		  /* refused: a virtual address of another workload */
	COUNT_GROUP,		  /* refused: a multicast or broadcast address */
	COUNT_STOPPED_GROUP,	  /* a plain query to a multicast or broadcast address */
	COUNT_STOPPED_UNHELD,	  /* to a virtual address whose slot the socket does not hold */
	COUNT_STOPPED_MADE,	  /* to a virtual address, of a raw or packet socket */
	COUNT_STOPPED_TRANSLATED, /* always dropped: the host's NAT replaced its virtual address */
	COUNT_SLOT_RECOUNTED,	  /* a slot's references were lowered to its number of sockets */
	COUNT_REFUSED_MPTCP,	  /* refused: MPTCP, whose references this kernel cannot recount */
	COUNT_LOCAL,		  /* allowed: a local resolver that is kept */
	COUNT_BOUND_LOCAL,	  /* refused: to a local resolver, from a loopback address */
	COUNT_ANSWER,		  /* allowed: a reply to a client with a DNS port */
	COUNT_EVENT_LOST,	  /* an event about a drop did not fit into the buffer */
	COUNTERS,
};

struct counters_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
};
extern struct counters_map counters SEC(".maps");

/* Global, so that the enum is part of the object's BTF. */
GLOBAL int count(enum counter c)
{
	__u32 at = c;
	__u64 *n = bpf_map_lookup_elem(&counters, &at);

	if (n)
		__sync_fetch_and_add(n, 1); /* newer kernels may preempt a program */
	return 0;
}

#endif
