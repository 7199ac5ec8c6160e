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
#include "node.h"

struct frontend_key {
	struct addr addr; /* 0.0.0.0 (mapped) or ::: any address of this node */
	__be16 port;
	__u8 proto; /* IPPROTO_TCP, IPPROTO_UDP */
	__u8 pad;   /* 0 */
};

struct frontend {
	__u32 service; /* index into service, for clients within the cluster */
	__u32 outside; /* the same for clients outside: with an external
			* traffic policy of Local another set of backends
			*/
	__u32 flags;   /* enum frontend_flag */
};

enum frontend_flag {
	FRONTEND_SOURCE_RANGES = 1, /* only for the sources in source_range */
};

struct service {
	__u32 backends;	 /* slots in use; 0: connections are refused */
	__u32 revision;	 /* raised at each change of the slots */
	__u32 flags;	 /* enum service_flag */
	__u32 affinity;	 /* seconds of client affinity; 0: none */
	__u32 ring;	 /* SERVICE_MAGLEV: index of its first block in ring */
	__u32 ring_size; /* SERVICE_MAGLEV: places in its ring, a prime */
};

enum service_flag {
	SERVICE_SILENT = 1, /* without backends: drop, do not refuse. There
			     * are backends on other nodes, and balancers
			     * outside are about to find out
			     */
	SERVICE_MAGLEV = 2, /* choose by the ring: alike on every node */
	SERVICE_LEAST = 4,  /* choose the less busy one of two */
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
	__uint(max_entries, 65536);
} service SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct slot_key);
	__type(value, struct backend);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} slot SEC(".maps");

INLINE bool nodeport_in_range(__be16 port)
{
	__u16 p = bpf_ntohs(port);

	return p >= nodeport_min && p <= nodeport_max;
}

/* frontend_lookup finds who serves {addr, port, proto}. here tells whether
 * 127.0.0.0/8 means this node (it does not inside a pod).
 */
INLINE struct frontend *frontend_lookup(const struct addr *addr, __be16 port,
					__u8 proto, bool here)
{
	struct frontend_key key = {
		.addr = *addr,
		.port = port,
		.proto = proto,
	};
	struct frontend *f = bpf_map_lookup_elem(&frontend, &key);

	if (f || !nodeport_in_range(port))
		return f;
	if (!(here && addr_loopback(addr)) && !node_is_local(addr))
		return NULL;
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

/* service_choose picks a backend for a client at random; NULL: there is none.
 * The index of its slot goes to *index. A slot that user space is taking away
 * just now is answered by slot 0.
 */
INLINE struct backend *service_choose(__u32 id, const struct service *s,
				      const struct addr *client, __u32 *index)
{
	__u32 n = s->backends;
	struct backend *b;

	(void)client; /* until affinity is served */
	if (!n)
		return NULL;
	/* Multiply instead of divide: the high word is uniform in 0..n-1. */
	*index = ((__u64)bpf_get_prandom_u32() * n) >> 32;
	b = slot_get(id, *index);
	if (b || !*index)
		return b;
	*index = 0;
	return slot_get(id, 0);
}

#endif
