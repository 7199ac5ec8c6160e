/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * scratch: the flow at hand, which the packet programs and their separate
 * functions work on.
 */
#ifndef SKEP_SCRATCH_H
#define SKEP_SCRATCH_H

#include "conntrack.h"
#include "drop.h"
#include "hop.h"
#include "nat.h"
#include "policy.h"
#include "route.h"

/* flow: a packet and where it is in the flow table. */
struct flow {
	struct packet packet;
	struct packet quoted; /* of an ICMP error: see quote.h */
	struct route route;   /* the answer of flow_route */
	struct translation translation; /* of a new flow: for flow_create */
	struct question question;	/* for flow_verdict */

	/* What follows is not emptied for each packet. */
	struct conntrack_key key;
	__u32 from;		/* index of the packet's source in key */
	struct conntrack entry; /* for flow_rewrite, quote_rewrite; without
				 * flags: there is none
				 */
	struct conntrack_key answers; /* of a new flow's other side, */
	__be16 sport;		      /* and what its source port becomes */
	enum place place;	      /* the program at work */
	__u32 unwatched; /* packets of known flows since the last event */
	__u64 refilled;	 /* milliseconds since boot at the last early fragment */
	__u64 rounds;	 /* that were left then: see early.h */
	struct plain plain; /* the packet, where it is one, and */
	struct hop_key way; /* the way that it goes: see carry.h */
};

/* Where a program works on its packet. In a map and not on the stack: of map
 * memory the verifier remembers nothing, so that the paths through parsing
 * meet again instead of being followed to the end one by one. Programs on one
 * CPU do not interrupt each other.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} scratch SEC(".maps");

/* flow_get gives the flow at hand. */
INLINE struct flow *flow_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

#endif
