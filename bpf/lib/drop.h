/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * drop: why packets and connects were refused, counted for each reason and
 * place. The one list of reasons; Go reads the names from BTF.
 */
#ifndef SKEP_DROP_H
#define SKEP_DROP_H

#include "bpf.h"

#define DROP_REASONS(X)                                                        \
	X(MALFORMED)	     /* headers shorter than they claim */               \
	X(UNSUPPORTED)	     /* not IPv4 or ARP */                               \
	X(SPOOFED)	     /* source MAC or IP is not the endpoint's */        \
	X(NO_ENDPOINT)	     /* an address of this node that no pod has */       \
	X(NO_BACKEND)	     /* the Service has no ready endpoint */             \
	X(NO_SERVICE)	     /* a ClusterIP and port that nobody serves */       \
	X(FRAGMENT)	     /* a fragment that would need translation */        \
	X(TABLE_FULL)	     /* conntrack has no room for a new flow */          \
	X(PORTS_EXHAUSTED)   /* no free source port towards this destination */  \
	X(COLLISION)	     /* two flows would look alike once translated */    \
	X(NO_MASQUERADE)     /* the device has no masquerade address */          \
	X(NO_LOCAL_BACKEND)  /* of a Service that other nodes serve */           \
	X(SOURCE_RANGE)	     /* the load balancer is not for that source */      \
	X(NOT_SYN)	     /* mid-flow TCP of an unknown translated flow */    \
	X(REWRITE)	     /* the kernel refused to change the packet */       \
	X(POLICY_INGRESS)    /* no policy of the receiver allows it */           \
	X(POLICY_EGRESS)     /* no policy of the sender allows it */           \
	X(TUNNEL_SOURCE)     /* no node of the cluster sent it */               \
	X(NO_TUNNEL)	     /* an address that no node is known to have */     \
	X(TOO_LARGE)	     /* for the link ahead; the sender is told */         \
	X(EXPIRED)	     /* its last hop is behind it; the sender is told */

enum drop_reason {
#define X(name) DROP_##name,
	DROP_REASONS(X)
#undef X
	DROP_REASON_COUNT,
};

/* place: where a verdict fell. */
enum place {
	PLACE_SOCK,	/* at connect or sendmsg */
	PLACE_FROM_POD, /* packet sent by a pod */
	PLACE_TO_POD,	/* packet from the host's stack to a pod */
	PLACE_FROM_NET, /* packet received on a node device */
	PLACE_TO_NET,	/* packet sent on a node device */
	PLACE_FROM_OVERLAY, /* packet of another node, out of the tunnel */
	PLACE_TO_OVERLAY,   /* packet for another node, into the tunnel */
	PLACE_COUNT,
};

/* Constants of these types keep the names in BTF, where Go finds them. */
volatile const enum drop_reason drop_reasons = DROP_REASON_COUNT;
volatile const enum place places = PLACE_COUNT;

struct drop_counter {
	__u64 packets; /* connects and datagrams at PLACE_SOCK */
	__u64 bytes;   /* frame bytes; 0 at PLACE_SOCK */
};

/* index: reason * PLACE_COUNT + place */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct drop_counter);
	__uint(max_entries, DROP_REASON_COUNT * PLACE_COUNT);
} drop SEC(".maps");

INLINE void drop_count(enum drop_reason reason, enum place place, __u32 bytes)
{
	__u32 index = reason * PLACE_COUNT + place;
	struct drop_counter *c = bpf_map_lookup_elem(&drop, &index);

	if (!c)
		return;
	c->packets++;
	c->bytes += bytes;
}

#endif
