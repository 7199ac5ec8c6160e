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
	struct addr masquerade; /* source of pods' traffic that leaves by it */
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

#endif
