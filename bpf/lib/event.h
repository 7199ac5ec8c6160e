/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * event: what happens to flows, told to whoever watches. Nobody watches most
 * of the time, which costs a packet one look at a word that is never written.
 */
#ifndef SKEP_EVENT_H
#define SKEP_EVENT_H

#include "addr.h"
#include "drop.h"

enum event_kind {
	EVENT_NEW,    /* a flow began; at PLACE_SOCK: a socket was translated */
	EVENT_END,    /* TCP: both ends have finished, or one has reset */
	EVENT_PACKET, /* a packet of a known flow: see watch.every */
	EVENT_DROP,   /* dropped, or answered by a refusal */
	EVENT_KIND_COUNT,
};

/* event: one record of events. A reader knows its version by its size. */
struct event {
	__u64 time;	       /* ns of CLOCK_MONOTONIC */
	struct addr src, dst;  /* as the packet came; at PLACE_SOCK src is the
				* pod, or all zero for the node itself
				*/
	struct addr new_src;   /* what they become; all zero: as they are */
	struct addr new_dst;
	__be16 sport, dport;   /* ICMP echo: the requester's is the id; 0 where
				* there is none, and at PLACE_SOCK the source's
				*/
	__be16 new_sport, new_dport; /* 0: as they are */
	__u32 service;	       /* index into service; 0: none */
	__u32 ifindex;	       /* of the device it came by; 0 at PLACE_SOCK */
	__u32 egress, ingress; /* the policy sets that were asked; 0: none */
	__u32 length;	       /* of the frame; 0 at PLACE_SOCK */
	__u8 kind;	       /* enum event_kind */
	__u8 reason;	       /* EVENT_DROP: enum drop_reason; others: its count */
	__u8 place;	       /* enum place */
	__u8 proto;	       /* of the L4 header */
	__u8 tcp;	       /* enum tcp_flag; not TCP: 0 */
	__u8 reply;	       /* 1: from the end that answers */
	__u8 pad[2];	       /* 0 */
};

/* These keep the types in BTF, where Go finds them. */
volatile const enum event_kind event_kinds = EVENT_KIND_COUNT;
volatile const struct event event_layout;

/* Full, events are lost and flows are not: see watch.lost. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144); /* bytes */
} events SEC(".maps");

/* watch: somebody reads events. */
struct watch {
	__u64 until; /* ns of CLOCK_MONOTONIC: who goes on watching moves it */
	__u32 on;    /* 0: nobody watches. Programs set it to 0 at until */
	__u32 every; /* one in so many packets of known flows; 0: none */
	__u64 lost;  /* events that found no room; roughly: CPUs may collide */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct watch);
	__uint(max_entries, 1);
} watch SEC(".maps");

/* watch_get gives the row if somebody watches, else NULL. */
INLINE struct watch *watch_get(void)
{
	__u32 zero = 0;
	struct watch *w = bpf_map_lookup_elem(&watch, &zero);

	return w && w->on ? w : NULL;
}

/* event_begin takes room for an event, whose time it fills in. NULL: there is
 * none, or nobody watches any more.
 */
INLINE struct event *event_begin(struct watch *w)
{
	__u64 now = bpf_ktime_get_ns();
	struct event *e;

	if (now >= w->until) {
		w->on = 0;
		return NULL;
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		w->lost++;
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	return e;
}

#endif
