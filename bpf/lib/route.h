/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * route: handing a packet on: to a local pod without passing the host's
 * stack, or out of a device as the host's routing table says.
 */
#ifndef SKEP_ROUTE_H
#define SKEP_ROUTE_H

#include "packet.h"

#ifndef AF_INET
#define AF_INET 2
#endif

/* route: where the routing table sends a packet. */
struct route {
	__u32 ifindex;
	__be32 next_hop;
};

/* route_find asks the routing table. False: this is for the host's stack,
 * which knows what to do about unreachable, too large, expired, and
 * neighbours that the kernel at hand does not name.
 */
INLINE bool route_find(struct __sk_buff *skb, const struct packet *p,
		       struct route *r)
{
	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.tos = p->tos,
		.l4_protocol = p->proto,
		.tot_len = p->length,
		.ipv4_src = addr_v4(&p->src),
		.ipv4_dst = addr_v4(&p->dst),
		.ifindex = skb->ingress_ifindex ? skb->ingress_ifindex
						: skb->ifindex,
	};
	__u32 in = fib.ifindex;
	long err;

	/* A GSO packet is as long as its segments only after the device has
	 * cut it; the kernel checks those itself.
	 */
	if (skb->gso_segs > 1)
		fib.tot_len = 0;
	err = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	if (fib.ifindex == in)
		return false;
	r->ifindex = fib.ifindex;
	r->next_hop = fib.ipv4_dst;
	return p->ttl > 1;
}

/* ttl_decrement is the router's part. The TTL shares a 16-bit word with the
 * protocol for the checksum.
 */
INLINE int ttl_decrement(struct __sk_buff *skb, const struct packet *p)
{
	__u8 ttl = p->ttl - 1;
	__be16 old = bpf_htons(p->ttl << 8 | p->proto);
	__be16 new = bpf_htons(ttl << 8 | p->proto);
	int err;

	err = bpf_l3_csum_replace(skb, IP_OFF(check), old, new, 2);
	return err | bpf_skb_store_bytes(skb, IP_OFF(ttl), &ttl, 1, 0);
}

INLINE int route_send(const struct route *r)
{
	struct bpf_redir_neigh nh = {
		.nh_family = AF_INET,
		.ipv4_nh = r->next_hop,
	};

	return bpf_redirect_neigh(r->ifindex, &nh, sizeof(nh), 0);
}

#endif
