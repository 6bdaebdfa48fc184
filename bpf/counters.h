/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One per-CPU counter for each verdict that is worth knowing. */
#ifndef SOTTO_COUNTERS_H
#define SOTTO_COUNTERS_H

#include "settings.h"

/* Go reads the names from the object's BTF; append only, for pinned maps. */
enum counter {
	COUNT_CONNECT,	      /* a connect was led to the listener */
	COUNT_SEND,	      /* an unconnected send was */
	COUNT_REPLY,	      /* a datagram's source was put back */
	COUNT_PEER,	      /* getpeername was answered with the origin */
	COUNT_OWN,	      /* let through: Sotto's own socket */
	COUNT_EXCLUDED,	      /* let through: an excluded cgroup */
	COUNT_SLOT_NEW,	      /* a slot was taken from the queue */
	COUNT_SLOT_FREED,     /* given back when its last socket went */
	COUNT_SLOT_COLLECTED, /* given back because it idled */
	COUNT_SLOT_RACE,      /* two made a slot for the same origin; one gave it back */
	COUNT_NO_SLOT,	      /* refused: no slot is free */
	COUNT_OVER_QUOTA,     /* refused: the cgroup holds its share */
	COUNT_NO_MEMORY,      /* refused: the socket's reference could not be kept */
	COUNT_UNKNOWN,	      /* not put back: the slot never had an origin */
	COUNT_BOUND,	      /* refused: the socket would send out of one interface only */
	COUNT_OPEN,	      /* let through: the daemon is dead, and was told to open then */
	/* The guard. What is stopped is only counted where it was told so. */
	COUNT_STOPPED_SOCKET,	 /* stopped: a plain query of a socket that the hooks did not see */
	COUNT_STOPPED_PACKET,	 /* stopped: a plain query of a packet socket */
	COUNT_STOPPED_FORWARDED, /* stopped: a plain query of no socket here */
	COUNT_STOPPED_SILENT,	 /* stopped: a segment to port 53 that carries no query */
	COUNT_STOPPED_OPAQUE,	 /* stopped: headers that hide what is below them */
	COUNT_LED_IN,	/* led to the listener from the interface that a socket is pinned to */
	COUNT_LED_BACK, /* led back to that interface, for a socket that listens there only */
	COUNT_ESCAPED,	/* dropped: from or for the prefix, about to leave the machine */
	COUNT_OUTSIDE,	/* dropped: from or for the prefix, from outside */
	COUNT_FOREIGN,	/* refused: a virtual address that stands for another workload's query */
	COUNT_GROUP,	/* refused: a multicast or broadcast address */
	COUNT_STOPPED_GROUP,	  /* stopped: a plain query to a multicast or broadcast address */
	COUNT_STOPPED_UNHELD,	  /* stopped: to a virtual address that the socket does not hold */
	COUNT_STOPPED_MADE,	  /* stopped: to a virtual address, of a raw or packet socket */
	COUNT_STOPPED_TRANSLATED, /* stopped: the host's NAT took it away from a virtual address */
	COUNT_SLOT_RECOUNTED,	  /* references were lowered to what sockets hold */
	COUNT_REFUSED_MPTCP,	  /* refused: MPTCP, whose references this kernel cannot recount */
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

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
