/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * route: handing a packet on: to a local pod without passing the host's
 * stack, or out of a device as the host's routing table says.
 */
#ifndef SKEP_ROUTE_H
#define SKEP_ROUTE_H

#include "packet.h"
#include "tunnel.h"

/* The same on every architecture that skep runs on. */
#define AF_INET 2
#define AF_INET6 10

/* skb->tc_index of packets that have all that they need: to_net, which they pass
 * next, takes it away and lets them go. ("sk" in ASCII.)
 */
#define ROUTE_DONE 0x736b

/* route: where the routing table sends a packet. */
struct route {
	__u32 ifindex;
	struct addr next_hop;
	__u16 mtu; /* the packet is larger than this; 0: it is not, or the
		    * kernel does not say (before 5.12)
		    */
};

/* route_length is the length of the packet on the wire. A GSO packet is cut
 * into segments by then, each with headers of its own.
 */
INLINE __u16 route_length(const struct __sk_buff *skb, const struct packet *p)
{
	__u32 length = skb->gso_size;

	if (!length)
		return p->length;
	length += p->l4 - ETH_HLEN + p->header;
	return length > 0xffff ? 0xffff : length;
}

/* route_query asks for the packet in *p. */
INLINE void route_query(struct bpf_fib_lookup *fib, struct __sk_buff *skb,
			const struct packet *p)
{
	fib->tot_len = route_length(skb, p);
	fib->l4_protocol = p->proto;
	fib->ifindex = skb->ingress_ifindex ? skb->ingress_ifindex
					    : skb->ifindex;
	if (p->v6) {
		fib->family = AF_INET6;
		fib->flowinfo = bpf_htonl(p->tos << 20);
		__builtin_memcpy(fib->ipv6_src, &p->src, sizeof(p->src));
		__builtin_memcpy(fib->ipv6_dst, &p->dst, sizeof(p->dst));
		return;
	}
	fib->family = AF_INET;
	fib->tos = p->tos;
	fib->ipv4_src = addr_v4(&p->src);
	fib->ipv4_dst = addr_v4(&p->dst);
}

/* route_tunnel says how large a packet may be that goes into the tunnel; 0: it
 * does not. The kernel's route says the same, which kernels before 5.12 do not
 * tell.
 */
INLINE __u16 route_tunnel(const struct packet *p)
{
	struct tunnel *t = tunnel_lookup(&p->dst);

	return t ? t->mtu : 0;
}

/* route_find asks the routing table. False: this is for the host's stack,
 * which knows what to do about unreachable, too large, expired, and
 * neighbours that the kernel at hand does not name.
 */
INLINE bool route_find(struct __sk_buff *skb, const struct packet *p,
		       struct route *r)
{
	struct bpf_fib_lookup fib = {};
	__u16 length;
	long err;

	route_query(&fib, skb, p);
	length = fib.tot_len;
	err = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	r->mtu = 0;
	if (err == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		r->mtu = fib.tot_len < length ? fib.tot_len : route_tunnel(p);
	if (err != BPF_FIB_LKUP_RET_SUCCESS && err != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	r->ifindex = fib.ifindex;
	if (p->v6)
		__builtin_memcpy(&r->next_hop, fib.ipv6_dst,
				 sizeof(r->next_hop));
	else
		addr_set_v4(&r->next_hop, fib.ipv4_dst);
	return p->ttl > 1;
}

/* ttl_decrement is the router's part. IPv4's TTL shares a 16-bit word with
 * the protocol for the checksum.
 */
INLINE int ttl_decrement(struct __sk_buff *skb, const struct packet *p)
{
	__u8 ttl = p->ttl - 1;
	__be16 old = bpf_htons(p->ttl << 8 | p->proto);
	__be16 new = bpf_htons(ttl << 8 | p->proto);
	int err;

	if (p->v6)
		return bpf_skb_store_bytes(skb, IP6_OFF(hop_limit), &ttl, 1,
					   BPF_F_RECOMPUTE_CSUM);
	err = bpf_l3_csum_replace(skb, IP_OFF(check), old, new, 2);
	return err | bpf_skb_store_bytes(skb, IP_OFF(ttl), &ttl, 1, 0);
}

INLINE int route_send(struct __sk_buff *skb, const struct route *r)
{
	struct bpf_redir_neigh nh = {};

	skb->tc_index = ROUTE_DONE;

	if (addr_is_v4(&r->next_hop)) {
		nh.nh_family = AF_INET;
		nh.ipv4_nh = addr_v4(&r->next_hop);
	} else {
		nh.nh_family = AF_INET6;
		__builtin_memcpy(nh.ipv6_nh, &r->next_hop,
				 sizeof(r->next_hop));
	}
	return bpf_redirect_neigh(r->ifindex, &nh, sizeof(nh), 0);
}

#endif
