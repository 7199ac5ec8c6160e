/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * conntrack: the flow table. A flow that is not translated is one entry,
 * found by packets of both directions since the key names the two ends in a
 * fixed order. A translated flow looks different on its two sides, so it has
 * one entry for each side; each holds all that its packets need, and the
 * collector removes both or none.
 *
 * A plain hash, not an LRU: a flood of new flows finds the table full and is
 * counted, and never evicts an established flow.
 */
#ifndef SKEP_CONNTRACK_H
#define SKEP_CONNTRACK_H

#include "addr.h"
#include "control.h"

/* end: an address and port. ICMP echo: the requester's port is the id, the
 * other one's is 0.
 */
struct conntrack_key {
	struct addr addr[2]; /* ends in ascending order of {addr, port} bytes */
	__be16 port[2];
	__u8 proto;
	__u8 pad[3]; /* 0 */
};

enum conntrack_flag {
	CT_FROM_HIGH = 1 << 0,	 /* the end at index 1 began the flow */
	CT_REWRITE_SRC = 1 << 1, /* packets get src and sport */
	CT_REWRITE_DST = 1 << 2, /* packets get dst and dport */
	CT_REPLY_SIDE = 1 << 3,	 /* of a translated flow: the backend's side */
	CT_TO_HOST = 1 << 4,	 /* the answering end is this node's stack */
	CT_FROM_HOST = 1 << 5,	 /* the beginning end is this node's stack */
	CT_REPLIED = 1 << 6,	 /* a packet was seen from the other end */
	CT_SYN = 1 << 7,	 /* TCP: begun by a SYN that was seen */
	CT_FIN_FROM = 1 << 8,	 /* TCP: the beginning end has finished */
	CT_FIN_TO = 1 << 9,	 /* TCP: the answering end has finished */
	CT_RST = 1 << 10,	 /* TCP: reset by either end */
};

struct conntrack {
	struct addr src;  /* with CT_REWRITE_SRC */
	struct addr dst;  /* with CT_REWRITE_DST */
	__be16 sport;	  /* with CT_REWRITE_SRC */
	__be16 dport;	  /* with CT_REWRITE_DST */
	__u32 ifindex[2]; /* the local pod at the end of this index; 0: none */
	__u32 epoch;	  /* control.epoch when ifindex was decided */
	__u32 last_seen;  /* control.generation at the last packet */
	__u32 service;	  /* translated flows: index into service */
	enum conntrack_flag flags;
};

_Static_assert(sizeof(struct conntrack) <= 64, "one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct conntrack_key);
	__type(value, struct conntrack);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} conntrack SEC(".maps");

#endif
