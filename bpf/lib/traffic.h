/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * traffic: what each service has carried. A packet of a translated flow is
 * counted in the flow's entry, which it has in hand anyway; the flow's sums
 * come here when it ends. What a socket was given is counted when it is, and
 * its bytes by TCP itself: they come here when the connection is closed.
 */
#ifndef SKEP_TRAFFIC_H
#define SKEP_TRAFFIC_H

#include "conntrack.h"

enum traffic_way {
	TRAFFIC_THERE, /* to the backend */
	TRAFFIC_BACK,  /* from it */
	TRAFFIC_WAYS,
};

struct traffic {
	__u64 sockets; /* connects and first datagrams that got a backend */
	__u64 flows;   /* begun packet by packet */
	__u64 refused; /* by either: there was no backend */
	__u64 payload[TRAFFIC_WAYS]; /* of closed TCP connections of sockets */
	__u64 bytes[TRAFFIC_WAYS];   /* frames of flows that have ended, and the
				      * first one of all others
				      */
};

/* The collector's sums of a service have its id and this bit. */
#define TRAFFIC_COLLECTED (1U << 31)

/* key: index into service. A service that nobody uses has no row. Each CPU
 * counts for itself. Full: what has no row is not counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __u32);
	__type(value, struct traffic);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} traffic SEC(".maps");

/* A new row. */
volatile const struct traffic traffic_none;

/* These keep the type in BTF, where Go finds it. */
volatile const enum traffic_way traffic_ways = TRAFFIC_WAYS;

INLINE struct traffic *traffic_get(__u32 service)
{
	return bpf_map_lookup_elem(&traffic, &service);
}

/* traffic_of gives the row of a service that is in use, made if need be. */
INLINE struct traffic *traffic_of(__u32 service)
{
	struct traffic *t = traffic_get(service);

	if (t)
		return t;
	bpf_map_update_elem(&traffic, &service, (const void *)&traffic_none,
			    BPF_NOEXIST);
	return traffic_get(service);
}

INLINE void traffic_socket(__u32 service)
{
	struct traffic *t = traffic_of(service);

	if (t)
		t->sockets++;
}

INLINE void traffic_refused(__u32 service)
{
	struct traffic *t = traffic_of(service);

	if (t)
		t->refused++;
}

/* traffic_begin counts a flow and its first packet. */
INLINE void traffic_begin(__u32 service, __u32 bytes)
{
	struct traffic *t = service ? traffic_of(service) : NULL;

	if (!t)
		return;
	t->flows++;
	t->bytes[TRAFFIC_THERE] += bytes;
}

/* traffic_sum adds what a flow's entry has counted besides. */
INLINE void traffic_sum(const struct conntrack *ct)
{
	struct traffic *t = ct->service ? traffic_get(ct->service) : NULL;

	if (!t)
		return;
	if (ct->flags & CT_REPLY_SIDE)
		t->bytes[TRAFFIC_BACK] += ct->bytes;
	else
		t->bytes[TRAFFIC_THERE] += ct->bytes;
}

/* An entry counts up to here before the service does: a frame fits above it. */
#define TRAFFIC_FULL (1U << 31)

/* traffic_count counts a frame of a known flow. */
INLINE void traffic_count(struct conntrack *ct, __u32 bytes)
{
	if (!ct->service)
		return;
	if (ct->bytes >= TRAFFIC_FULL) {
		traffic_sum(ct);
		ct->bytes = 0;
	}
	ct->bytes += bytes;
}

#endif
