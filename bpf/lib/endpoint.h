/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * endpoint: a pod of this node, by its address.
 */
#ifndef SKEP_ENDPOINT_H
#define SKEP_ENDPOINT_H

#include "addr.h"

struct endpoint {
	__u32 ifindex;	   /* the host side of the pod's veth */
	__u32 identity;	   /* what policies see of it: see policy.h */
	__u8 mac[ETH_ALEN]; /* of the pod's side */
	__u16 flags;	   /* 0: none are defined yet */
	__u32 egress;	   /* policy set of what it sends; 0: not isolated */
	__u32 ingress;	   /* policy set of what it is sent; 0: not isolated */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct endpoint);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} endpoint SEC(".maps");

INLINE struct endpoint *endpoint_lookup(const struct addr *addr)
{
	return bpf_map_lookup_elem(&endpoint, addr);
}

#endif
