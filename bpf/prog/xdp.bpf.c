// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * xdp: on the node's devices, before the kernel makes a buffer of what comes
 * in. front sends on the packets of flows in the table that are bound for
 * another machine: from clients outside to backends on other nodes, and the
 * answers of those. It decides nothing that from_net does not: flows begin, end
 * and are decided anew there, and whatever is unusual about a packet is for it.
 */
#include "../lib/bpf.h"
#include "../lib/config.h"
#include "../lib/control.h"
#include "../lib/conntrack.h"
#include "../lib/hop.h"
#include "../lib/plain.h"

/* front_news tells whether the packet says something new of its flow. */
INLINE bool front_news(const struct plain *p, const struct conntrack *ct,
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

/* front_takes tells whether a flow's packets are bound for another machine. */
INLINE bool front_takes(const struct conntrack *ct, __u32 from)
{
	if (ct->flags & CT_DIRECT)
		return conntrack_forward(ct, from);
	return conntrack_translated(ct) && conntrack_applies(ct, from) &&
	       !ct->ifindex[!from] &&
	       !(ct->flags &
		 (conntrack_forward(ct, from) ? CT_TO_HOST : CT_FROM_HOST));
}

/* front_way gives the packet whose way is asked for: the one that is sent, or,
 * where that is to go to the node of a backend as it is, one to the backend
 * (see direct_route).
 */
INLINE const struct plain *front_way(const struct conntrack *ct,
				     const struct plain *p, struct plain *way)
{
	if (!(ct->flags & CT_DIRECT))
		return p;
	*way = *p;
	way->src = p->dst;
	way->dst = ct->dst;
	return way;
}

SEC("xdp")
int front(struct xdp_md *ctx)
{
	const struct control *c = control_get();
	struct conntrack_key key;
	struct conntrack *ct;
	struct plain p, to, way;
	__u64 addrs, ports;
	struct hop *h;
	__u32 from;

	if (!c || !plain_parse(ctx, &p))
		return XDP_PASS;
	from = plain_flow(&p, &key);
	ct = bpf_map_lookup_elem(&conntrack, &key);
	if (!ct || ct->epoch != c->epoch || !front_takes(ct, from) ||
	    front_news(&p, ct, from) || pods_contain(&p.src))
		return XDP_PASS;
	to = p;
	addrs = plain_translate(&p, ct, &to, &ports);
	h = hop_find(ctx, front_way(ct, &to, &way));
	/* Of other devices nobody knows whether they send for XDP. */
	if (!h || h->ifindex != ctx->ingress_ifindex)
		return XDP_PASS;
	if (ct->last_seen != c->generation)
		ct->last_seen = c->generation;
	if (!plain_write(ctx, &to, addrs, ports) || !hop_write(ctx, h))
		return XDP_PASS;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
