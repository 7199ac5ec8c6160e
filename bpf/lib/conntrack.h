/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * conntrack: the flow table. A flow that is not translated is one entry,
 * found by packets of both directions since the key names the two ends in a
 * fixed order. A translated flow looks different on its two sides, so it has
 * one entry for each side; each holds all that its packets need, and the
 * collector removes both or none.
 *
 * A plain hash, not an LRU: a flood of new flows finds the table full and is
 * counted, and never evicts an established flow.
 */
#ifndef SKEP_CONNTRACK_H
#define SKEP_CONNTRACK_H

#include "addr.h"
#include "control.h"
#include "packet.h"

/* end: an address and port. ICMP echo: the requester's port is the id, the
 * other one's is 0.
 */
struct conntrack_key {
	struct addr addr[2]; /* the two ends, as end_above orders them */
	__be16 port[2];
	__u8 proto;
	__u8 pad[3]; /* 0 */
};

enum conntrack_flag {
	CT_FROM_HIGH = 1 << 0,	 /* the end at index 1 began the flow */
	CT_REWRITE_SRC = 1 << 1, /* packets get src and sport */
	CT_REWRITE_DST = 1 << 2, /* packets get dst and dport */
	CT_REPLY_SIDE = 1 << 3,	 /* of a translated flow: the backend's side */
	CT_TO_HOST = 1 << 4,	 /* the answering end is this node's stack */
	CT_FROM_HOST = 1 << 5,	 /* the beginning end is this node's stack */
	CT_REPLIED = 1 << 6,	 /* a packet was seen from the other end */
	CT_SYN = 1 << 7,	 /* TCP: begun by a SYN that was seen */
	CT_FIN_FROM = 1 << 8,	 /* TCP: the beginning end has finished */
	CT_FIN_TO = 1 << 9,	 /* TCP: the answering end has finished */
	CT_RST = 1 << 10,	 /* TCP: reset by either end */
	CT_DIRECT = 1 << 11,	 /* sent on as it is to the node of dst and
				  * dport, which answers the client itself: see
				  * direct.h
				  */
};

struct conntrack {
	struct addr src;  /* with CT_REWRITE_SRC */
	struct addr dst;  /* with CT_REWRITE_DST or CT_DIRECT */
	__be16 sport;	  /* with CT_REWRITE_SRC */
	__be16 dport;	  /* with CT_REWRITE_DST or CT_DIRECT */
	__u32 ifindex[2]; /* the local pod at the end of this index; 0: none */
	__u32 epoch;	  /* control.epoch when ifindex was decided */
	__u32 last_seen;  /* control.generation at the last packet */
	__u32 service;	  /* translated flows: index into service */
	enum conntrack_flag flags;
	__u32 bytes; /* flows of a service: of this side's frames, but the one
		      * that began the flow, and those that traffic has by now
		      */
};

_Static_assert(sizeof(struct conntrack) <= 64, "one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct conntrack_key);
	__type(value, struct conntrack);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} conntrack SEC(".maps");

/* above is 1 if a > b and 0 if not, without a branch: branches here would be
 * multiplied in the verifier by every path that makes a key.
 */
INLINE __u64 above(__u32 a, __u32 b)
{
	__u64 d = (__u64)b - a;

	asm volatile("" : "+r"(d));
	return d >> 63;
}

/* pick is b if which is 1 and a if it is 0, without a branch. */
INLINE __u32 pick(__u32 which, __u32 a, __u32 b)
{
	__u32 mask = -which;

	asm volatile("" : "+r"(mask));
	return a ^ ((a ^ b) & mask);
}

/* end_above orders two ends: by the address as four machine words, the last
 * one first, then by the port. Any total order does; abi.NewConntrackKey has
 * the same. 1: a is above b.
 */
INLINE __u32 end_above(const struct addr *a, __be16 aport,
		       const struct addr *b, __be16 bport)
{
	__u64 up = above(aport, bport), down = above(bport, aport);

	for (int i = 0; i < 4; i++) {
		up |= above(addr_word(a, i), addr_word(b, i)) << (i + 1);
		down |= above(addr_word(b, i), addr_word(a, i)) << (i + 1);
	}
	return above(up, down);
}

/* conntrack_key_of makes the key of a packet {src, sport, dst, dport} and
 * returns the index of its source in it.
 */
INLINE __u32 conntrack_key_of(struct conntrack_key *key, const struct addr *src,
			      __be16 sport, const struct addr *dst,
			      __be16 dport, __u8 proto)
{
	__u32 from = end_above(src, sport, dst, dport);
	__u32 *low = (__u32 *)key->addr[0].bytes;
	__u32 *high = (__u32 *)key->addr[1].bytes;

	for (int i = 0; i < 4; i++) {
		__u32 s = addr_word(src, i), d = addr_word(dst, i);

		low[i] = pick(from, s, d);
		high[i] = pick(from, d, s);
	}
	key->port[0] = pick(from, sport, dport);
	key->port[1] = pick(from, dport, sport);
	key->proto = proto;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
	return from;
}

/* conntrack_devices sets the pods of both ends. */
INLINE void conntrack_devices(struct conntrack *ct, __u32 from,
			      __u32 from_ifindex, __u32 to_ifindex)
{
	ct->ifindex[0] = pick(from, from_ifindex, to_ifindex);
	ct->ifindex[1] = pick(from, to_ifindex, from_ifindex);
}

/* conntrack_forward tells whether a packet whose source is at index from goes
 * in the direction in which the flow was begun.
 */
INLINE bool conntrack_forward(const struct conntrack *ct, __u32 from)
{
	return !!(ct->flags & CT_FROM_HIGH) == from;
}

INLINE bool conntrack_translated(const struct conntrack *ct)
{
	return ct->flags & (CT_REWRITE_SRC | CT_REWRITE_DST);
}

/* conntrack_applies tells whether the packet is on the side of a translated
 * flow that the entry is for: the beginner's packets meet the first entry,
 * the answers the CT_REPLY_SIDE one.
 */
INLINE bool conntrack_applies(const struct conntrack *ct, __u32 from)
{
	return !conntrack_translated(ct) ||
	       conntrack_forward(ct, from) == !(ct->flags & CT_REPLY_SIDE);
}

/* conntrack_closed tells whether a TCP flow has come to its end. */
INLINE bool conntrack_closed(const struct conntrack *ct)
{
	__u32 both = CT_FIN_FROM | CT_FIN_TO;

	return (ct->flags & both) == both || (ct->flags & CT_RST);
}

/* conntrack_news gives the flags that a packet adds to its flow. */
INLINE __u32 conntrack_news(const struct packet *p, bool forward)
{
	__u32 news = forward ? 0 : CT_REPLIED;

	if (p->proto != IPPROTO_TCP)
		return news;
	if (p->tcp & TCP_FIN)
		news |= forward ? CT_FIN_FROM : CT_FIN_TO;
	if (p->tcp & TCP_RST)
		news |= CT_RST;
	return news;
}

/* The flags value of the end that began a flow. */
INLINE __u32 conntrack_from_flag(__u32 from)
{
	_Static_assert(CT_FROM_HIGH == 1, "the flag is the index");
	return from;
}

#endif
