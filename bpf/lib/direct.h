/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * direct: direct server return. The node that a client asked sends the packet
 * on as it came, to the node of the backend that it chose. That one knows the
 * frontend too, makes the same choice, keeps the client's address and answers
 * the client itself, in the name of the address that was asked.
 *
 * Only between nodes on one link: the frame gets the next hop's address and the
 * packet stays what it is. To nodes behind a router or a tunnel, flows are
 * translated.
 */
#ifndef SKEP_DIRECT_H
#define SKEP_DIRECT_H

#include "flow.h"

/* skb->pkt_type: the frame was for this machine (linux/if_packet.h). */
#define FRAME_HOST 0

/* direct_route asks for the way to the backend, by f->translation. The answer
 * is in f->route. Negative: there is none on the link that the packet came by.
 * The source is the address that was asked, as for the answers: then few
 * routes are asked for.
 */
SEPARATE int direct_route(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct addr src, dst;
	int found;

	if (!f)
		return -1;
	src = f->packet.src;
	dst = f->packet.dst;
	f->packet.src = dst;
	f->packet.dst = f->translation.dst;
	found = route_find(skb, &f->packet, &f->route);
	f->packet.src = src;
	f->packet.dst = dst;
	return found && f->route.ifindex == skb->ifindex ? 0 : -1;
}

/* direct_from tells whether the frame came from the machine that it would be
 * sent to: that one has handed the packet on to here.
 */
INLINE bool direct_from(struct __sk_buff *skb, const struct flow *f)
{
	struct bpf_fib_lookup fib = {};
	__u8 source[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), source,
			       sizeof(source)))
		return true;
	route_query(&fib, skb, &f->packet);
	if (f->packet.v6)
		__builtin_memcpy(fib.ipv6_dst, &f->route.next_hop,
				 sizeof(f->route.next_hop));
	else
		fib.ipv4_dst = addr_v4(&f->route.next_hop);
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) !=
	    BPF_FIB_LKUP_RET_SUCCESS)
		return true;
	for (int i = 0; i < ETH_ALEN; i++)
		if (source[i] != fib.dmac[i])
			return false;
	return true;
}

/* direct_takes tells whether a new flow, as f->translation says it, goes to the
 * node of its backend as it is: if that is on the link, and knows what to do.
 */
SEPARATE int direct_takes(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	if (!f || direct_route(skb) < 0)
		return false;
	return bpf_map_lookup_elem(&node, &f->route.next_hop) &&
	       !direct_from(skb, f);
}

/* direct_track notes the choice, by which the flow stays with its backend. A
 * flow that the table has no room for chooses anew with each packet, and alike
 * while the backends are the same.
 */
INLINE void direct_track(struct flow *f, const struct control *c)
{
	const struct translation *t = &f->translation;
	struct conntrack ct = {
		.dst = t->dst,
		.dport = t->dport,
		.epoch = c->epoch,
		.last_seen = c->generation,
		.service = t->service,
		.flags = CT_DIRECT | conntrack_from_flag(f->from) |
			 (packet_opens_tcp(&f->packet) ? CT_SYN : 0),
	};

	bpf_map_update_elem(&conntrack, &f->key, &ct, BPF_ANY);
}

/* direct_begins_anew tells whether the packet opens a connection in the place
 * of one whose end was not seen here: that the server has finished is not.
 */
INLINE bool direct_begins_anew(const struct flow *f, const struct conntrack *ct)
{
	return (ct->flags & CT_DIRECT) && packet_opens_tcp(&f->packet);
}

/* direct_resumed finds the frontend of a TCP packet, in the middle of a flow that
 * is not known here, if the backend's node may know it: the node that the client
 * asked before is gone, or routers think of this one now. What has this node's
 * own address nobody else was asked for.
 */
INLINE struct frontend *direct_resumed(const struct packet *p)
{
	struct frontend *f;
	struct service *s;

	if (pods_contain(&p->dst) || node_is_local(&p->dst))
		return NULL;
	f = frontend_lookup(&p->dst, p->dport, p->proto, false);
	if (!f)
		return NULL;
	s = service_get(f->outside);
	return s && (s->flags & SERVICE_DSR) ? f : NULL;
}

/* direct_frontend finds the NodePort of a packet that another node, whose
 * address it has, handed on to here.
 */
INLINE struct frontend *direct_frontend(struct __sk_buff *skb,
					const struct packet *p)
{
	struct frontend_key key = {.port = p->dport, .proto = p->proto};
	struct frontend *f;
	struct service *s;

	if (skb->pkt_type != FRAME_HOST || !nodeport_in_range(p->dport) ||
	    (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP) ||
	    !bpf_map_lookup_elem(&node, &p->dst))
		return NULL;
	if (!p->v6)
		addr_set_v4(&key.addr, 0);
	f = bpf_map_lookup_elem(&frontend, &key);
	if (!f)
		return NULL;
	s = service_get(f->outside);
	return s && (s->flags & SERVICE_DSR) ? f : NULL;
}

#endif
