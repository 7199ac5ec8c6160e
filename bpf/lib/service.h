/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * service: from an address and port that clients use to one that serves.
 *
 *   frontend {addr, port, proto} -> service id
 *   service  [id]                -> how many backends, and how to choose
 *   slot     {id, index}         -> backend, for index 0 .. backends-1
 */
#ifndef SKEP_SERVICE_H
#define SKEP_SERVICE_H

#include "addr.h"
#include "config.h"
#include "load.h"
#include "node.h"

struct frontend_key {
	struct addr addr; /* 0.0.0.0 (mapped) or ::: any address of this node */
	__be16 port;
	__u8 proto; /* IPPROTO_TCP, IPPROTO_UDP */
	__u8 pad;   /* 0 */
};

enum frontend_flag {
	FRONTEND_SOURCE_RANGES = 1, /* only for the sources in source_range */
};

struct frontend {
	__u32 service; /* index into service, for clients within the cluster */
	__u32 outside; /* the same for clients outside: with an external
			* traffic policy of Local another set of backends
			*/
	enum frontend_flag flags;
};

enum service_flag {
	SERVICE_SILENT = 1, /* without backends: drop, do not refuse. There
			     * are backends on other nodes, and balancers
			     * outside are about to find out
			     */
	SERVICE_LEAST = 2, /* choose the less busy one of two: see load.h */
	SERVICE_DSR = 4, /* the backend's node answers clients outside itself:
			  * see direct.h
			  */
};

struct service {
	__u32 backends;	 /* slots in use; 0: connections are refused */
	__u32 revision;	 /* raised at each change of the slots */
	enum service_flag flags;
	__u32 affinity;	 /* seconds of client affinity; 0: none */
	__u32 ring;	 /* index of its first block in ring */
	__u32 ring_size; /* places in its ring, a prime; 0: it has none */
};

struct slot_key {
	__u32 service;
	__u32 index;
};

struct backend {
	struct addr addr;
	__be16 port;
	__u16 flags; /* 0: none are defined yet */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} frontend SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct service);
	__uint(max_entries, 131072);
} service SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct slot_key);
	__type(value, struct backend);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} slot SEC(".maps");

/* The places of rings, in blocks of a cache line. A ring (Maglev, NSDI 2016)
 * has a slot at each place, so that a flow finds the same backend on every
 * node, and few flows move when backends come and go.
 */
#define RING_BLOCK 32

struct ring_block {
	__u16 slot[RING_BLOCK];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct ring_block);
	__uint(max_entries, 32768);
} ring SEC(".maps");

/* The backend that a client of a Service with affinity was given. */
struct affinity_key {
	struct addr client; /* of a pod, or outside; all zero: this node */
	__u32 service;
};

struct affinity {
	struct addr addr; /* of the backend */
	__be16 port;
	__u16 pad;   /* 0 */
	__u32 slot;  /* where the backend was */
	__u32 used;  /* seconds since boot, at the last choice */
};

/* An LRU: what is forgotten is a preference, no connection. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(max_entries, 16384);
} affinity SEC(".maps");

/* The sources that may use the frontends of a service that have
 * FRONTEND_SOURCE_RANGES.
 */
struct source_range_key {
	__u32 prefix; /* bits of what follows that count; at least 32 */
	__u32 service;
	struct addr source;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct source_range_key);
	__type(value, __u8); /* not used */
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} source_range SEC(".maps");

INLINE bool nodeport_in_range(__be16 port)
{
	__u16 p = bpf_ntohs(port);

	return p >= nodeport_min && p <= nodeport_max;
}

/* frontend_lookup finds who serves {addr, port, proto}. here tells whether
 * 127.0.0.0/8 means this node (it does not inside a pod). Host ports may have
 * any number, so every port of the node's addresses is looked for.
 */
INLINE struct frontend *frontend_lookup(const struct addr *addr, __be16 port,
					__u8 proto, bool here)
{
	struct frontend_key key = {
		.addr = *addr,
		.port = port,
		.proto = proto,
	};
	bool loopback = addr_loopback(addr);
	struct frontend *f;

	if (loopback && !here)
		return NULL;
	f = bpf_map_lookup_elem(&frontend, &key);
	if (f || (!loopback && !node_is_local(addr)))
		return f;
	if (addr_is_v4(addr))
		addr_set_v4(&key.addr, 0);
	else
		__builtin_memset(&key.addr, 0, sizeof(key.addr));
	return bpf_map_lookup_elem(&frontend, &key);
}

INLINE struct service *service_get(__u32 id)
{
	return bpf_map_lookup_elem(&service, &id);
}

INLINE struct backend *slot_get(__u32 id, __u32 index)
{
	struct slot_key key = {.service = id, .index = index};

	return bpf_map_lookup_elem(&slot, &key);
}

/* frontend_admits tells whether a source may use a frontend. The node itself
 * always may.
 */
INLINE bool frontend_admits(const struct frontend *f, const struct addr *source)
{
	struct source_range_key key = {
		.prefix = 32 + 128,
		.service = f->service,
		.source = *source,
	};

	return !(f->flags & FRONTEND_SOURCE_RANGES) || node_is_local(source) ||
	       bpf_map_lookup_elem(&source_range, &key);
}

#define NSEC_PER_SEC 1000000000ULL

/* A backend that moved to another slot is looked for in so many. */
#define AFFINITY_SCAN 32

/* affinity_backend finds the backend of *a, if it still serves. */
INLINE struct backend *affinity_backend(__u32 id, const struct service *s,
					const struct affinity *a, __u32 *index)
{
	struct backend *b = slot_get(id, a->slot);

	*index = a->slot;
	if (a->slot < s->backends && b && b->port == a->port &&
	    addr_equal(&b->addr, &a->addr))
		return b;
	for (__u32 i = 0; i < AFFINITY_SCAN && i < s->backends; i++) {
		b = slot_get(id, i);
		*index = i;
		if (b && b->port == a->port && addr_equal(&b->addr, &a->addr))
			return b;
	}
	return NULL;
}

/* service_random picks a backend at random; NULL: there is none. The index of
 * its slot goes to *index. A slot that user space is taking away just now is
 * answered by slot 0.
 */
INLINE struct backend *service_random(__u32 id, const struct service *s,
				      __u32 *index)
{
	struct backend *b;

	if (!s->backends)
		return NULL;
	/* Multiply instead of divide: the high word is uniform below it. */
	*index = ((__u64)bpf_get_prandom_u32() * s->backends) >> 32;
	b = slot_get(id, *index);
	if (b || !*index)
		return b;
	*index = 0;
	return slot_get(id, 0);
}

/* service_ring picks the backend at a flow's place in the ring. */
INLINE struct backend *service_ring(__u32 id, const struct service *s,
				    __u32 hash, __u32 *index)
{
	__u32 place = hash % s->ring_size;
	__u32 block = s->ring + place / RING_BLOCK;
	struct ring_block *b = bpf_map_lookup_elem(&ring, &block);

	if (!b)
		return NULL;
	*index = b->slot[place % RING_BLOCK];
	return *index < s->backends ? slot_get(id, *index) : NULL;
}

/* service_least picks the backend with fewer connections of two at random (M.
 * Mitzenmacher, The Power of Two Choices, 2001): nearly as even as the least of
 * all, for the cost of two look-ups, and new backends are not rushed at.
 */
INLINE struct backend *service_least(__u32 id, const struct service *s,
				     __u32 *index)
{
	struct backend *one = service_random(id, s, index), *two;
	__u32 other;

	if (!one || s->backends < 2)
		return one;
	/* Another than the first, each as likely. */
	other = ((__u64)bpf_get_prandom_u32() * (s->backends - 1)) >> 32;
	if (other >= *index)
		other++;
	two = slot_get(id, other);
	if (!two || load_of(id, &one->addr, one->port) <=
			    load_of(id, &two->addr, two->port))
		return one;
	*index = other;
	return two;
}

/* service_pick picks a backend: by the hash of the flow if there is one and
 * the service has a ring, else as the service says.
 */
INLINE struct backend *service_pick(__u32 id, const struct service *s,
				    __u32 hash, __u32 *index)
{
	struct backend *b = NULL;

	if (hash && s->ring_size)
		b = service_ring(id, s, hash, index);
	if (b)
		return b;
	return s->flags & SERVICE_LEAST ? service_least(id, s, index)
					: service_random(id, s, index);
}

/* service_choose picks a backend for a client; NULL: there is none. The index
 * of its slot goes to *index. hash is of the flow, 0: choose at random.
 */
INLINE struct backend *service_choose(__u32 id, const struct service *s,
				      const struct addr *client, __u32 hash,
				      __u32 *index)
{
	struct affinity_key key = {.client = *client, .service = id};
	struct affinity mine = {}, *known;
	struct backend *b = NULL;

	if (!s->affinity)
		return service_pick(id, s, hash, index);
	mine.used = bpf_ktime_get_ns() / NSEC_PER_SEC;
	known = bpf_map_lookup_elem(&affinity, &key);
	if (known && mine.used - known->used < s->affinity)
		b = affinity_backend(id, s, known, index);
	if (!b)
		b = service_pick(id, s, hash, index);
	if (!b)
		return NULL;
	mine.addr = b->addr;
	mine.port = b->port;
	mine.slot = *index;
	bpf_map_update_elem(&affinity, &key, &mine, BPF_ANY);
	return b;
}

#endif
