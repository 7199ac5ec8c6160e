/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * node: the addresses of nodes, and what a node's devices are for.
 */
#ifndef SKEP_NODE_H
#define SKEP_NODE_H

#include "addr.h"

enum node_flag {
	NODE_LOCAL = 1, /* an address of this node: its stack answers */
};

struct node {
	enum node_flag flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct node);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} node SEC(".maps");

/* device: a device of this node that leads outside. */
struct device {
	/* The source of pods' traffic that leaves by it; all zero: there is
	 * none of that family.
	 */
	struct addr masquerade;
	struct addr masquerade6;
};

/* key: ifindex */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct device);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} device SEC(".maps");

INLINE bool node_is_local(const struct addr *addr)
{
	struct node *n = bpf_map_lookup_elem(&node, addr);

	return n && (n->flags & NODE_LOCAL);
}

/* device_masquerade finds the source of traffic that leaves by a device;
 * NULL: none was given to it.
 */
INLINE const struct addr *device_masquerade(__u32 ifindex, bool v6)
{
	struct device *d = bpf_map_lookup_elem(&device, &ifindex);
	const struct addr *a;

	if (!d)
		return NULL;
	a = v6 ? &d->masquerade6 : &d->masquerade;
	return addr_word(a, 3) ? a : NULL;
}

#endif
