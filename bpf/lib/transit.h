/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * transit: packets that need no decision: plain ones of flows in the table that
 * say nothing new of their flow. XDP takes those that are bound for another
 * machine, tc those for this node's pods too. One look-up in the table tells
 * all that there is to know.
 */
#ifndef SKEP_TRANSIT_H
#define SKEP_TRANSIT_H

#include "control.h"
#include "hop.h"
#include "plain.h"
#include "traffic.h"

/* transit_news tells whether the packet says something new of its flow. */
INLINE bool transit_news(const struct plain *p, const struct conntrack *ct,
			 __u32 from)
{
	__u32 flags = ct->flags, news = 0;
	bool forward = conntrack_forward(ct, from);

	if (p->proto == IPPROTO_TCP &&
	    ((p->tcp & (TCP_SYN | TCP_FIN | TCP_RST)) ||
	     (flags & (CT_FIN_FROM | CT_FIN_TO | CT_RST))))
		return true;
	if (!forward || ((flags & CT_DIRECT) && p->proto == IPPROTO_TCP))
		news = CT_REPLIED;
	return news & ~flags;
}

/* transit_away tells whether packets from the end at index from are bound for
 * another machine.
 */
INLINE bool transit_away(const struct conntrack *ct, __u32 from)
{
	if (ct->flags & CT_DIRECT)
		return conntrack_forward(ct, from);
	return conntrack_translated(ct) && conntrack_applies(ct, from) &&
	       !ct->ifindex[!from] &&
	       !(ct->flags &
		 (conntrack_forward(ct, from) ? CT_TO_HOST : CT_FROM_HOST));
}

/* transit_way says which way is asked for: the one of the packet as it is sent,
 * or, where that is to go to the node of a backend as it is, one to the backend
 * (see direct_route).
 */
INLINE void transit_way(const struct conntrack *ct, const struct plain *p,
			struct hop_key *k)
{
	bool direct = ct->flags & CT_DIRECT;

	k->src = direct ? p->dst : p->src;
	k->dst = direct ? ct->dst : p->dst;
	k->tos = p->tos;
}

/* transit_seen notes that the flow is in use, and counts the packet. Of a flow
 * that is no Service's it writes only what changes, so that a busy flow's cache
 * line stays shared.
 */
INLINE void transit_seen(struct conntrack *ct, const struct control *c,
			 __u32 bytes)
{
	traffic_count(ct, bytes);
	if (ct->last_seen != c->generation)
		ct->last_seen = c->generation;
}

#endif
