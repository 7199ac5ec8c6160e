/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * hop: the next hop towards an address, as the routing table said it a moment
 * ago. To ask it for every packet would cost as much as all else that is done
 * with one.
 */
#ifndef SKEP_HOP_H
#define SKEP_HOP_H

#include "plain.h"
#include "route.h"

/* hop_key: what the answer follows from. */
struct hop_key {
	struct addr src, dst;
	__u32 ifindex; /* that the packet came by */
	__u32 tos;     /* and HOP_TC */
};

/* tc and XDP have answers of their own: see hop_find. */
#define HOP_TC 0x100

struct hop {
	struct hop_key key;
	__u64 asked;   /* jiffies; 0: never */
	__u32 length;  /* of the largest packet that was asked for, in bytes */
	__u32 ifindex; /* that the packet is to leave by */
	__u8 dst[ETH_ALEN], src[ETH_ALEN]; /* MAC addresses */
	__u32 pad;			   /* 0 */
};

/* An answer is used for so many jiffies: a quarter of a second to two and a
 * half. What routes and neighbours there are changes less often, and user
 * space is told no sooner either.
 */
#define HOP_JIFFIES 256

/* Answers are forgotten when another takes their place. */
#define HOPS 512

/* For each CPU, which nobody interrupts while it is at work here: a row is
 * never seen half written.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct hop);
	__uint(max_entries, HOPS);
} hop SEC(".maps");

INLINE __u32 hop_place(const struct hop_key *k)
{
	__u32 place = 0;

	for (int i = 0; i < 4; i++)
		place = (place ^ addr_word(&k->src, i)) * 0x9e3779b1 ^
			addr_word(&k->dst, i);
	place *= 0x9e3779b1;
	return place >> 23;
}

_Static_assert(HOPS == 1 << (32 - 23), "places are what hop_place gives");

/* hop_ask asks the routing table. False: it is for the stack to say. */
INLINE bool hop_ask(void *ctx, const struct hop_key *k, const struct plain *p,
		    struct hop *h)
{
	struct bpf_fib_lookup fib = {};

	fib.tot_len = p->length + (p->v6 ? sizeof(struct ipv6hdr) : 0);
	fib.l4_protocol = p->proto;
	fib.ifindex = k->ifindex;
	if (p->v6) {
		fib.family = AF_INET6;
		fib.flowinfo = bpf_htonl(p->tos << 20);
		__builtin_memcpy(fib.ipv6_src, &k->src, sizeof(k->src));
		__builtin_memcpy(fib.ipv6_dst, &k->dst, sizeof(k->dst));
	} else {
		fib.family = AF_INET;
		fib.tos = p->tos;
		fib.ipv4_src = addr_v4(&k->src);
		fib.ipv4_dst = addr_v4(&k->dst);
	}
	h->asked = 0;
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) !=
	    BPF_FIB_LKUP_RET_SUCCESS)
		return false;
	h->ifindex = fib.ifindex;
	__builtin_memcpy(h->dst, fib.dmac, ETH_ALEN);
	__builtin_memcpy(h->src, fib.smac, ETH_ALEN);
	return true;
}

/* hop_find finds the next hop of the packet *p, which may be sent to another
 * address than it has; NULL: it is for the stack to say. When an answer is too
 * old the packet at hand goes to who is next, from XDP to tc and from tc to the
 * stack's neighbours: they notice only by packets that they are in use, and ask
 * no more whether a neighbour is there that nobody seems to need.
 */
INLINE struct hop *hop_find(void *ctx, const struct hop_key *k,
			    const struct plain *p)
{
	__u32 place = hop_place(k);
	__u64 now = bpf_jiffies64();
	struct hop *h = bpf_map_lookup_elem(&hop, &place);
	bool fresh, same;

	if (!h)
		return NULL;
	fresh = now - h->asked < HOP_JIFFIES;
	same = h->asked && k->ifindex == h->key.ifindex &&
	       k->tos == h->key.tos && addr_equal(&k->dst, &h->key.dst) &&
	       addr_equal(&k->src, &h->key.src);
	if (same && fresh && p->length <= h->length)
		return h;
	if (!hop_ask(ctx, k, p, h))
		return NULL;
	h->key = *k;
	h->length = p->length;
	h->asked = now;
	return same && !fresh ? NULL : h;
}

/* hop_write addresses the frame to the next hop. */
INLINE bool hop_write(void *data, void *end, const struct hop *h)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return false;
	__builtin_memcpy(eth->h_dest, h->dst, ETH_ALEN);
	__builtin_memcpy(eth->h_source, h->src, ETH_ALEN);
	return true;
}

#endif
