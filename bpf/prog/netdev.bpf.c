// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * netdev: on the node's devices. from_net brings NodePort connections to
 * their backends and the answers of masqueraded flows to their pods; to_net
 * does for packets of the host's stack what from_pod does for those that it
 * can send itself. The host's own traffic passes untouched.
 */
#include "../lib/bpf.h"
#include "../lib/carry.h"
#include "../lib/direct.h"
#include "../lib/early.h"
#include "../lib/flow.h"
#include "../lib/quote.h"
#include "../lib/tunnel.h"

/* arrive hands a packet from outside to the pod at ifindex. */
INLINE int arrive(struct __sk_buff *skb, const struct packet *p, __u32 ifindex)
{
	/* The stack answers what has no hop left; it routes the rest alike. */
	if (p->ttl <= 1)
		return TC_ACT_OK;
	if (ttl_decrement(skb, p))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	return bpf_redirect_peer(ifindex, 0);
}

/* onward sends a packet from outside where the routing table says. */
INLINE int onward(struct __sk_buff *skb, const struct flow *f)
{
	if (ttl_decrement(skb, &f->packet))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	return route_send(skb, &f->route);
}

/* elsewhere completes a translation to a backend that is not on this node:
 * its answers must come back through here.
 */
INLINE enum drop_reason elsewhere(struct __sk_buff *skb, struct flow *f)
{
	struct translation *t = &f->translation;
	const struct addr *src;

	/* Back out of the same device is a route too. */
	f->route.ifindex = skb->ifindex;
	flow_route(skb, true);
	src = device_masquerade(f->route.ifindex, f->packet.v6);
	if (!src)
		return DROP_NO_MASQUERADE;
	t->src = *src;
	t->flags |= CT_REWRITE_SRC;
	return DROP_NONE;
}

/* expired answers a packet that has no hop left and would go on as it is: the
 * stack would take it for its own.
 */
INLINE int expired(struct __sk_buff *skb)
{
	drop_count(DROP_EXPIRED, PLACE_FROM_NET, skb->len);
	return flow_answer_expired(skb);
}

/* direct sends a packet on to the node of the backend, as it is. */
INLINE int direct(struct __sk_buff *skb, struct flow *f,
		  struct conntrack *ct, const struct control *c)
{
	struct translation *t = &f->translation;
	enum drop_reason reason;
	int verdict;

	t->dst = ct->dst;
	/* To a client that goes on after its opening somebody has answered. */
	if (f->packet.proto == IPPROTO_TCP && !(ct->flags & CT_REPLIED))
		ct->flags |= CT_REPLIED;
	reason = flow_seen(skb, ct, f, c);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_NET);
	if (f->packet.ttl <= 1)
		return expired(skb);
	traffic_count(ct, skb->len);
	if (!direct_route(skb))
		return onward(skb, f);
	verdict = flow_answer_large(skb);
	if (verdict < 0)
		return flow_drop(skb, DROP_NO_BACKEND, PLACE_FROM_NET);
	drop_count(DROP_TOO_LARGE, PLACE_FROM_NET, skb->len);
	return verdict;
}

/* serve begins a flow from outside to a Service. handed: another node was
 * asked, and has handed the packet on to this one.
 */
INLINE int serve(struct __sk_buff *skb, struct flow *f,
		 const struct control *c, const struct frontend *fe,
		 bool handed)
{
	struct packet *p = &f->packet;
	struct translation *t = &f->translation;
	bool away;
	int reason;

	if (!frontend_admits(fe, &p->src))
		return flow_drop(skb, DROP_SOURCE_RANGE, PLACE_FROM_NET);
	reason = flow_choose(skb, fe->outside, flow_hash(p));
	if (reason != DROP_NONE)
		return flow_deny(skb, reason, PLACE_FROM_NET);
	away = !t->to_ifindex && !(t->flags & CT_TO_HOST);
	if (away && t->direct && p->ttl <= 1)
		return expired(skb);
	/* Also one that another node began: if that is gone, the backend's
	 * still knows it.
	 */
	if (away && t->direct && !handed && direct_takes(skb)) {
		direct_track(f, c);
		traffic_begin(t->service, skb->len);
		return onward(skb, f);
	}
	if (p->proto == IPPROTO_TCP && !packet_opens_tcp(p))
		return flow_reject(skb, DROP_NOT_SYN, PLACE_FROM_NET);
	if (away)
		reason = elsewhere(skb, f);
	if (reason == DROP_NONE)
		reason = flow_allowed(skb, f, c, &t->dst, t->dport, true);
	if (reason == DROP_NONE)
		reason = flow_create(skb);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_NET);
	if (t->to_ifindex)
		return arrive(skb, p, t->to_ifindex);
	if ((t->flags & CT_TO_HOST) || !flow_route(skb, false))
		return TC_ACT_OK;
	return onward(skb, f);
}

/* wait sends a fragment that is early round, or leaves it to the stack. What
 * comes by the tunnel would lose its sender on the way.
 */
INLINE int wait(struct __sk_buff *skb, const struct packet *p)
{
	struct addr from;

	if (tunnel_from(skb, &from) || !early(skb, p))
		return TC_ACT_OK;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* forward sends a packet of a translated flow on to another machine. What is
 * too large for the way there is answered while it is still as its sender
 * knows it: the stack would tell the address that it is given here.
 */
INLINE int forward(struct __sk_buff *skb, struct flow *f, struct conntrack *ct,
		   __u32 before)
{
	struct translation *t = &f->translation;
	__u32 length = skb->len;
	int found, verdict;

	t->flags = ct->flags & (CT_REWRITE_SRC | CT_REWRITE_DST);
	t->src = ct->src;
	t->dst = ct->dst;
	found = flow_route(skb, true);
	verdict = found ? -1 : flow_answer_large(skb);
	if (verdict >= 0) {
		drop_count(DROP_TOO_LARGE, PLACE_FROM_NET, length);
		return verdict;
	}
	if (flow_translate(skb, f, ct, before))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	return found ? onward(skb, f) : TC_ACT_OK;
}

/* known sends a packet of a flow in the table. */
INLINE int known(struct __sk_buff *skb, struct flow *f, struct conntrack *ct,
		 const struct control *c)
{
	bool translated = conntrack_translated(ct);
	__u32 before = ct->flags;
	enum drop_reason reason;
	bool to_host;
	__u32 to;

	if (!conntrack_applies(ct, f->from))
		return TC_ACT_OK;
	if (ct->flags & CT_DIRECT)
		return direct(skb, f, ct, c);
	reason = flow_seen(skb, ct, f, c);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_NET);
	to = ct->ifindex[!f->from];
	to_host = flow_to_host(ct, f->from);
	if (!translated) {
		flow_ended(ct, f);
		return to ? arrive(skb, &f->packet, to) : TC_ACT_OK;
	}
	if (!to && !to_host)
		return forward(skb, f, ct, before);
	if (flow_translate(skb, f, ct, before))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	return to ? arrive(skb, &f->packet, to) : TC_ACT_OK;
}

/* astray hands an error on to the node that answered a client itself: the answer
 * that it is about has an address of this one's.
 */
INLINE int astray(struct __sk_buff *skb, struct flow *f)
{
	struct conntrack *ct = bpf_map_lookup_elem(&conntrack, &f->key);

	if (!ct || !(ct->flags & CT_DIRECT) || !conntrack_forward(ct, f->from))
		return TC_ACT_OK;
	f->translation.dst = ct->dst;
	return direct_takes(skb) ? onward(skb, f) : TC_ACT_OK;
}

/* report brings an ICMP error about a translated flow to whom it concerns. */
INLINE int report(struct __sk_buff *skb, struct flow *f)
{
	struct packet *p = &f->packet;
	__u32 to;

	if (!quote_find(skb))
		return astray(skb, f);
	if (quote_rewrite(skb))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	to = flow_device(&p->dst);
	if (to)
		return arrive(skb, p, to);
	if (node_is_local(&p->dst) || !flow_route(skb, false))
		return TC_ACT_OK;
	return onward(skb, f);
}

SEC("tc")
int from_net(struct __sk_buff *skb)
{
	int carried = carry(skb), kind;
	const struct control *c = control_get();
	struct frontend *fe = NULL;
	struct flow *f = flow_get();
	enum drop_reason reason;
	struct conntrack *ct;
	struct packet *p;
	bool handed = false;
	__u32 to;

	if (carried >= 0)
		return carried;
	if (carried == CARRY_FAILED)
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_NET);
	/* It may come from another node of this machine. */
	if (skb->tc_index == ROUTE_DONE)
		skb->tc_index = 0;
	kind = flow_parse(skb, PLACE_FROM_NET);
	if (!c || !f || kind != KIND_IP)
		return TC_ACT_OK;
	p = &f->packet;
	if (pods_contain(&p->src))
		return flow_drop(skb, DROP_SPOOFED, PLACE_FROM_NET);
	if (p->quote)
		return report(skb, f);
	if (!p->has_ports)
		return wait(skb, p);
	ct = carried == CARRY_UNKNOWN ? NULL : flow_find(f);
	if (ct && !flow_begins_anew(f, ct) && !direct_begins_anew(f, ct))
		return known(skb, f, ct, c);
	/* Of TCP only an opening can be for a Service, unless the port is kept
	 * for them: then the flow is unknown and its client must be told; or
	 * unless another node may know the flow.
	 */
	if (packet_opens_tcp(p) || p->proto == IPPROTO_UDP ||
	    (p->proto == IPPROTO_TCP && nodeport_in_range(p->dport)))
		fe = frontend_lookup(&p->dst, p->dport, p->proto, false);
	else if (p->proto == IPPROTO_TCP)
		fe = direct_resumed(p);
	if (!fe && !pods_contain(&p->dst)) {
		fe = direct_frontend(skb, p);
		handed = fe;
	}
	if (fe)
		return serve(skb, f, c, fe, handed);
	if (!pods_contain(&p->dst))
		return TC_ACT_OK;
	to = flow_device(&p->dst);
	if (!to && !node_is_local(&p->dst))
		return flow_reject(skb, DROP_NO_ENDPOINT, PLACE_FROM_NET);
	if (!to)
		return TC_ACT_OK;
	reason = flow_allowed(skb, f, c, &p->dst, p->dport, true);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_NET);
	flow_track(skb, f, c, 0, 0, to);
	return arrive(skb, p, to);
}

/* masquerades tells whether what an address sends outside gets this node's
 * own for a source.
 */
INLINE bool masquerades(const struct addr *src)
{
	return pods_contain(src) || guests_contain(src);
}

/* masquerade begins a flow of a pod that the stack routed out of here. */
INLINE int masquerade(struct __sk_buff *skb, struct flow *f)
{
	struct translation *t = &f->translation;
	enum drop_reason reason;
	const struct addr *src;

	src = device_masquerade(skb->ifindex, f->packet.v6);
	if (!src)
		return flow_drop(skb, DROP_NO_MASQUERADE, PLACE_TO_NET);
	if (f->packet.proto == IPPROTO_TCP && !packet_opens_tcp(&f->packet))
		return flow_drop(skb, DROP_NOT_SYN, PLACE_TO_NET); /* see begin of pod */
	t->flags = CT_REWRITE_SRC;
	t->from_ifindex = flow_device(&f->packet.src);
	t->src = *src;
	reason = flow_create(skb);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_TO_NET);
	return TC_ACT_OK;
}

SEC("tc")
int to_net(struct __sk_buff *skb)
{
	const struct control *c = control_get();
	struct flow *f = flow_get();
	enum drop_reason reason;
	struct conntrack *ct;
	__u32 before;
	int kind;

	if (skb->tc_index == ROUTE_DONE) {
		skb->tc_index = 0;
		return TC_ACT_OK;
	}
	kind = flow_parse(skb, PLACE_TO_NET);
	if (!c || !f || kind != KIND_IP)
		return TC_ACT_OK;
	if (f->packet.quote && !quote_pass(skb))
		return flow_drop(skb, DROP_REWRITE, PLACE_TO_NET);
	if (!f->packet.has_ports)
		return TC_ACT_OK;
	ct = flow_find(f);
	if (ct && !flow_begins_anew(f, ct)) {
		if (!conntrack_translated(ct) ||
		    !conntrack_applies(ct, f->from))
			return TC_ACT_OK;
		before = ct->flags;
		reason = flow_seen(skb, ct, f, c);
		if (reason != DROP_NONE)
			return flow_drop(skb, reason, PLACE_TO_NET);
		if (flow_translate(skb, f, ct, before))
			return flow_drop(skb, DROP_REWRITE, PLACE_TO_NET);
		return TC_ACT_OK;
	}
	if (!masquerades(&f->packet.src) || cluster_contains(&f->packet.dst) ||
	    guests_contain(&f->packet.dst) || addr_special(&f->packet.dst))
		return TC_ACT_OK;
	return masquerade(skb, f);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
