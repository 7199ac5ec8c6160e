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
	struct addr addr[2]; /* the two ends, as end_below orders them */
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
};

struct conntrack {
	struct addr src;  /* with CT_REWRITE_SRC */
	struct addr dst;  /* with CT_REWRITE_DST */
	__be16 sport;	  /* with CT_REWRITE_SRC */
	__be16 dport;	  /* with CT_REWRITE_DST */
	__u32 ifindex[2]; /* the local pod at the end of this index; 0: none */
	__u32 epoch;	  /* control.epoch when ifindex was decided */
	__u32 last_seen;  /* control.generation at the last packet */
	__u32 service;	  /* translated flows: index into service */
	enum conntrack_flag flags;
};

_Static_assert(sizeof(struct conntrack) <= 64, "one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct conntrack_key);
	__type(value, struct conntrack);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} conntrack SEC(".maps");

/* end_below orders two ends: by the address as four machine words, the last
 * one first since it tells most addresses apart, then by the port. Any total
 * order does; abi.NewConntrackKey has the same.
 */
INLINE bool end_below(const struct addr *a, __be16 aport, const struct addr *b,
		      __be16 bport)
{
	for (int i = 3; i >= 0; i--)
		if (addr_word(a, i) != addr_word(b, i))
			return addr_word(a, i) < addr_word(b, i);
	return aport < bport;
}

/* conntrack_key_of makes the key of a packet {src, sport, dst, dport} and
 * returns the index of its source in it.
 */
INLINE __u32 conntrack_key_of(struct conntrack_key *key, const struct addr *src,
			      __be16 sport, const struct addr *dst,
			      __be16 dport, __u8 proto)
{
	__u32 from = end_below(dst, dport, src, sport);

	__builtin_memset(key, 0, sizeof(*key));
	key->proto = proto;
	if (from) {
		key->addr[0] = *dst;
		key->addr[1] = *src;
		key->port[0] = dport;
		key->port[1] = sport;
	} else {
		key->addr[0] = *src;
		key->addr[1] = *dst;
		key->port[0] = sport;
		key->port[1] = dport;
	}
	return from;
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

/* conntrack_real gives the address that the packets of the entry have at end
 * i once they are rewritten.
 */
INLINE const struct addr *conntrack_real(const struct conntrack *ct,
					 const struct conntrack_key *key,
					 __u32 from, __u32 i)
{
	if (i == from)
		return &key->addr[i & 1];
	return ct->flags & CT_REWRITE_DST ? &ct->dst : &key->addr[i & 1];
}

#endif
