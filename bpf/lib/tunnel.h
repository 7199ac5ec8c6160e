/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * tunnel: which node has which pods, for those nodes that are reached through
 * the VXLAN device. The device carries packets to any node: each says by its
 * tunnel key where it is to go, or where it came from.
 */
#ifndef SKEP_TUNNEL_H
#define SKEP_TUNNEL_H

#include "addr.h"

/* One network for all pods: the tunnel does not tell tenants apart. */
#define TUNNEL_ID 83

/* Hops of the outer packet. */
#define TUNNEL_TTL 64

/* The key as kernels from 5.10 know it: later ones have more fields. */
#define TUNNEL_KEY_SIZE offsetof(struct bpf_tunnel_key, local_ipv4)

/* tunnel_key: a range of pod addresses. */
struct tunnel_key {
	__u32 prefix; /* length in bits, of 128 */
	struct addr addr;
};

/* tunnel: the node that has it. */
struct tunnel {
	struct addr node;
	__u32 mtu; /* largest packet that gets there, without what the tunnel
		    * adds; the kernel's route has the same
		    */
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct tunnel_key);
	__type(value, struct tunnel);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} tunnel SEC(".maps");

/* tunnel_lookup finds the node that has a pod address. */
INLINE struct tunnel *tunnel_lookup(const struct addr *a)
{
	struct tunnel_key key = {.prefix = 128, .addr = *a};

	return bpf_map_lookup_elem(&tunnel, &key);
}

/* tunnel_to names the node that the packet is for. Returns 0, or not 0 if the
 * kernel refused. IPv4 leaves the outer checksum out: the inner ones are there.
 * IPv6 demands it.
 */
INLINE long tunnel_to(struct __sk_buff *skb, const struct addr *node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = TUNNEL_ID,
		.tunnel_ttl = TUNNEL_TTL,
	};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (addr_is_v4(node)) {
		/* The kernel wants this one in its own byte order. */
		key.remote_ipv4 = bpf_ntohl(addr_v4(node));
	} else {
		__builtin_memcpy(key.remote_ipv6, node, sizeof(*node));
		flags = BPF_F_TUNINFO_IPV6;
	}
	return bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, flags);
}

/* tunnel_from gives the node that the packet came from. False: it came
 * through no tunnel, or one of another network.
 */
INLINE bool tunnel_from(struct __sk_buff *skb, struct addr *node)
{
	struct bpf_tunnel_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0))
		addr_set_v4(node, bpf_htonl(key.remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE,
					 BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(node, key.remote_ipv6, sizeof(*node));
	else
		return false;
	return key.tunnel_id == TUNNEL_ID;
}

#endif
