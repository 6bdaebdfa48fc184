/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Cached answers that are given in the kernel (hits). User space decides what is answered and
 * how; the program only repeats it. User space is the only writer of entries, and reuses the
 * memory of one only when no program that could have found it runs any more.
 *
 * An entry is valid for the slots of one class: slots that the rules treat alike for every
 * name. The class of a slot is stored with the generation of its origin, so that a slot that
 * gets another meaning has none.
 */
#ifndef SOTTO_HITS_H
#define SOTTO_HITS_H

#include "address.h"
#include "origins.h"
#include "packet.h"
#include "settings.h"

/* Version of the maps in this file. A process does not adopt those of another version. */
#define HIT_LAYOUT 2

#define HIT_NAME 127   /* bytes of a name in wire form */
#define HIT_RECORDS 16 /* records of an answer */
#define HIT_SHORT 512  /* bytes of an answer after its question */
#define HIT_LONG 1232  /* the same of a long one; no reply is longer (DNS flag day 2020) */
#define HIT_QUERY 160  /* at least a header, a question and an OPT record; a multiple of 4 */
#define HIT_CHUNK 512  /* the most that bpf_csum_diff takes at once */
#define HIT_REPLY (4 * HIT_CHUNK) /* longer than any; a power of two */

#define HIT_IS_LONG 0x80000000 /* of an index: into long_hits */

#define HIT_WAYS 8			     /* places of a bucket: one cache line */
#define HIT_MULTIPLIER 0x9e3779b97f4a7c15ULL /* of the hash: 2^64 divided by the golden ratio */

#define DNS_HEADER 12
#define DNS_MIN_SIZE 512 /* what every client takes over UDP (RFC 1035 section 2.3.4) */
#define DNS_SIZE 1232	 /* of a payload over UDP: wire.UDPSize */
#define DNS_OPT 11	 /* an OPT record without options */
#define TYPE_OPT 41
#define DNS_RD 0x01 /* third byte of the header */
#define DNS_QR 0x80
#define DNS_RA 0x80 /* fourth byte */
#define DNS_AD 0x20
#define DNS_CD 0x10

#define HIT_DO 1 /* flags of a key: wire.AppendKey */
#define HIT_CD 2

#define SECOND_NS 1000000000ULL

/* Without a heartbeat this long the process has ended, and no entry is refreshed. */
#define HIT_DEAD_NS (3 * SECOND_NS)

/* Why a query was answered here or left to user space: one counter for each. Append only: the
 * map is pinned.
 */
enum hit_verdict {
	HIT_ANSWERED,
	HIT_NO_CLASS,	/* the slot has no class, or not yet */
	HIT_UNUSUAL,	/* not a query that can be answered here */
	HIT_UNKNOWN,	/* there is no entry */
	HIT_EXPIRING,	/* the entry expired, will soon, or is of an earlier generation */
	HIT_TOO_LARGE,	/* the client does not accept the answer's length */
	HIT_BUSY,	/* this processor was interrupted while it answered */
	HIT_NO_MEMORY,	/* the packet cannot be made larger */
	HIT_LOST,	/* dropped: a changed packet could not be completed */
	HIT_EVENT_LOST, /* an event of a trace did not fit into the buffer */
	HIT_VERDICTS,
};

/* No implicit padding: it is a hash key. The rest of the name is zero. */
struct hit_key {
	__u32 class;
	__be16 qtype;
	__be16 qclass;
	__u8 flags;
	__u8 name[HIT_NAME]; /* lower case */
};

/* Ordered by use: a reply to a short name reads the first two cache lines, and what follows. */
struct hit {
	__u64 generation;
	__u64 stored;  /* of the three times: bpf_ktime_get_boot_ns */
	__u64 refresh; /* from when user space answers, and refreshes the answer */
	__u64 expires;
	__u64 count;	   /* replies */
	__be16 records[3]; /* answer, authority and additional section, without OPT */
	__u16 len;	   /* of what follows the question */
	__u8 rcode;
	__u8 ad;
	__u16 ttl_count;
	__u32 zero;
	__u16 ttls[HIT_RECORDS]; /* offsets after the question */
	struct hit_key key;
	__u64 pad[4]; /* to the next cache line */
};

struct short_hit {
	struct hit head;
	__u8 rest[HIT_SHORT]; /* what follows the question; zero after its end */
};

struct long_hit {
	struct hit head;
	__u8 rest[HIT_LONG];
};

extern const volatile __u32 index_mask; /* of the number of a bucket */

/* Where the entries are: a hash table in an array, which the program reads without a helper. A
 * way is 0, or the upper half of the key's hash with its lowest bit set, and the index of the
 * entry. It is only a hint: the key is compared with that of the entry. The hash is not
 * cryptographic: at worst an answer takes the place of another one, which user space gives then.
 */
struct hit_bucket {
	__u64 way[HIT_WAYS];
};

struct hit_index_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* a power of two */
	__type(key, __u32);
	__type(value, struct hit_bucket);
};
extern struct hit_index_map hit_index SEC(".maps");

struct short_hits_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct short_hit);
};
extern struct short_hits_map short_hits SEC(".maps");

struct long_hits_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct long_hit);
};
extern struct long_hits_map long_hits SEC(".maps");

struct hit_slot {
	__u64 class;   /* upper half: generation of the origin; lower half: the class, or 0 */
	__u64 asked;   /* the same of the last request for a class, with the first class */
	__u64 noerror; /* replies since the map was made, by response code */
	__u64 nxdomain;
};

struct hit_slots_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct hit_slot);
};
extern struct hit_slots_map hit_slots SEC(".maps");

/* State of user space, its only writer. */
struct hit_state {
	__u64 generation;  /* of the entries that are valid; 0: none is */
	__u64 first_class; /* classes before this one are those of earlier rules */
	__u64 layout;	   /* HIT_LAYOUT */
	__u64 traced;	   /* an event is written for each reply */
	__u64 seed;	   /* of the hash of the index */
};

struct hit_control_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hit_state);
};
extern struct hit_control_map hit_control SEC(".maps");

struct hit_counters_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HIT_VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
};
extern struct hit_counters_map hit_counters SEC(".maps");

/* Slots that need a class. Each process has its own, as it has of the events. */
struct hit_wanted_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
};
extern struct hit_wanted_map hit_wanted SEC(".maps");

/* One reply, for a trace. */
struct hit_event {
	__u64 time; /* when the query was seen: bpf_ktime_get_ns */
	__u64 took; /* nanoseconds until the reply was ready */
	__be32 client[4];
	__u32 slot;
	__be16 port; /* of the client */
	__be16 id;   /* of the query */
	__be16 qtype;
	__be16 qclass;
	__u16 name_len;
	__u8 rcode;
	__u8 is6;
	__u8 name[HIT_NAME + 1]; /* as the client sent it */
};

struct hit_events_map {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
};
extern struct hit_events_map hit_events SEC(".maps");

/* Memory of one run, which does not fit on the stack. */
struct hit_scratch {
	__u32 busy;
	__u32 name_len; /* 0: not a name, or longer than a key's */
	__u64 hash;	/* of the key */
	__u64 jiffies;	/* when boot was read */
	__u64 boot;	/* bpf_ktime_get_boot_ns */
	struct hit_key key;
	__u8 query[HIT_QUERY];
	__u8 reply[HIT_REPLY]; /* what follows the question */
	__u8 spare[16];	       /* the verifier knows lengths only up to a power of two */
};

struct hit_scratch_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hit_scratch);
};
extern struct hit_scratch_map hit_scratch SEC(".maps");

#define HIT_FRAME 62 /* headers of IPv6; a query over IPv4 has hardly ever fewer bytes in all */
#define UDP_HEADER 8

/* The headers of a frame, up to that of the message. The IP header is aligned. */
struct hit_frame {
	__u16 zero;
	struct ethhdr eth;
	union {
		struct {
			struct iphdr ip4;
			__be16 udp4[4];
			__u32 dns4[DNS_HEADER / 4];
		};
		struct {
			struct ipv6hdr ip6;
			__be16 udp6[4];
			__u32 dns6[DNS_HEADER / 4];
		};
	};
};

/* A query, as far as it was read. */
struct hit_query {
	__u64 now;     /* bpf_ktime_get_ns, during a trace */
	__be32 src[4]; /* IPv4 addresses are mapped */
	__be32 dst[4];
	__u32 udp; /* offset of the UDP header */
	__be16 udp_len;
	__be16 check;
	__be16 sport;
	__u32 slot;
	__u32 len;	/* of the DNS message */
	__u32 name_len; /* with the root */
	__u32 end;	/* offset in the message after the question */
	__u32 limit;	/* bytes of a reply */
	__u16 size;	/* what the client accepts, as it is in the OPT record */
	__u8 edns;
	__u8 dnssec_ok;
	__u8 flags; /* fourth byte of the header */
};

/* Global, so that the enum is part of the object's BTF. */
GLOBAL int hit_count(enum hit_verdict v)
{
	__u32 at = v;
	__u64 *n = bpf_map_lookup_elem(&hit_counters, &at);

	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

#endif
