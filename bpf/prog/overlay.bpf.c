// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * overlay: on the VXLAN device, before the netdev programs, to which it is a
 * device that leads outside like any other. to_overlay names the node that a
 * packet is for; from_overlay refuses what no node of the cluster sent.
 */
#include "../lib/bpf.h"
#include "../lib/flow.h"
#include "../lib/node.h"
#include "../lib/tunnel.h"

/* linux/if_packet.h: the packet is for us. */
#define PACKET_HOST 0

/* stray drops what no node of the cluster sent. */
INLINE int stray(struct __sk_buff *skb)
{
	flow_parse(skb, PLACE_FROM_OVERLAY); /* who watches wants to know it */
	return flow_drop(skb, DROP_TUNNEL_SOURCE, PLACE_FROM_OVERLAY);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct addr from;
	struct node *n;

	if (!tunnel_from(skb, &from))
		return stray(skb);
	n = bpf_map_lookup_elem(&node, &from);
	if (!n || (n->flags & NODE_LOCAL))
		return stray(skb);
	/* The tunnel has two ends and no need of hardware addresses: whatever
	 * the frame has for one, it is for this node.
	 */
	bpf_skb_change_type(skb, PACKET_HOST);
	return TC_ACT_UNSPEC;
}

/* adopt gives a packet of the host's stack the router's address for a source,
 * if it has another one: answers must come back by the tunnel, where the
 * network between the nodes knows no pods. Returns DROP_NONE, or why not.
 */
INLINE int adopt(struct __sk_buff *skb, struct flow *f)
{
	struct translation *t = &f->translation;
	struct packet *p = &f->packet;
	struct conntrack *ct;

	if (!p->has_ports || cluster_contains(&p->src))
		return DROP_NONE;
	ct = flow_find(f);
	if (ct && !flow_begins_anew(f, ct))
		return DROP_NONE; /* to_net knows what to do with it */
	t->flags = CT_REWRITE_SRC;
	if (node_is_local(&p->src))
		t->flags |= CT_FROM_HOST;
	router_of(&t->src, p->v6);
	return flow_create(skb);
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	int kind = flow_parse(skb, PLACE_TO_OVERLAY);
	struct flow *f = flow_get();
	struct addr node;
	struct tunnel *t;
	int reason;

	/* What concerns one link alone has no place here. */
	if (!f || kind != KIND_IP || addr_special(&f->packet.dst))
		return TC_ACT_SHOT;
	t = tunnel_lookup(&f->packet.dst);
	if (!t)
		return flow_drop(skb, DROP_NO_TUNNEL, PLACE_TO_OVERLAY);
	node = t->node;
	if (tunnel_to(skb, &node))
		return flow_drop(skb, DROP_REWRITE, PLACE_TO_OVERLAY);
	reason = adopt(skb, f);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_TO_OVERLAY);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
