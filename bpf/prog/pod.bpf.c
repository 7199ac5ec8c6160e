// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * pod: on the host side of a pod's veth. from_pod sees what the pod sends
 * and brings it to its destination; to_pod sees what the host's stack sends
 * to the pod.
 */
#include "../lib/bpf.h"
#include "../lib/dnsanswer.h"
#include "../lib/early.h"
#include "../lib/flow.h"
#include "../lib/quote.h"

/* arp_ours tells whether an ARP packet speaks for the pod that sent it. */
INLINE bool arp_ours(struct __sk_buff *skb)
{
	struct {
		__u8 head[8]; /* types, lengths, operation */
		__u8 mac[ETH_ALEN];
		__u8 ip[4];
	} arp;
	struct endpoint *e;
	struct addr sender;
	__be32 ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return false;
	__builtin_memcpy(&ip, &arp.ip, sizeof(ip));
	addr_set_v4(&sender, ip);
	e = endpoint_lookup(&sender);
	return e && e->ifindex == skb->ifindex &&
	       !__builtin_memcmp(arp.mac, e->mac, ETH_ALEN);
}

/* neighbour_ours tells whether what never leaves the link speaks for the pod
 * that sent it. Before it has an address it speaks for none, or for one of the
 * link: then nobody else can be meant.
 */
INLINE bool neighbour_ours(struct __sk_buff *skb, const struct packet *p)
{
	struct addr none = {};

	return addr_equal(&p->src, &none) || addr_link_local(&p->src) ||
	       flow_device(&p->src) == skb->ifindex;
}

/* source_ours tells whether a frame speaks for the pod that sent it. */
INLINE bool source_ours(struct __sk_buff *skb, const struct packet *p)
{
	struct endpoint *e = endpoint_lookup(&p->src);
	__u8 mac[ETH_ALEN];

	if (!e || e->ifindex != skb->ifindex)
		return false;
	if (bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)))
		return false;
	return !__builtin_memcmp(mac, e->mac, ETH_ALEN);
}

/* masquerade begins a flow whose source becomes the device's address. */
INLINE int masquerade(struct __sk_buff *skb, struct flow *f)
{
	struct translation *t = &f->translation;
	const struct addr *src;
	enum drop_reason reason;

	src = device_masquerade(f->route.ifindex, f->packet.v6);
	if (!src)
		return flow_drop(skb, DROP_NO_MASQUERADE, PLACE_FROM_POD);
	t->flags = CT_REWRITE_SRC;
	t->from_ifindex = skb->ifindex;
	t->src = *src;
	reason = flow_create(skb);
	if (reason == DROP_NONE && ttl_decrement(skb, &f->packet))
		reason = DROP_REWRITE;
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_POD);
	return route_send(skb, &f->route);
}

/* leave sends a packet that is for no pod of this node by the routing table;
 * what the table does not settle is the stack's.
 */
SEPARATE int leave(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	if (!f || !flow_route(skb, false))
		return TC_ACT_OK;
	if (ttl_decrement(skb, &f->packet))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
	return route_send(skb, &f->route);
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
		return flow_drop(skb, DROP_COLLISION, PLACE_FROM_POD);
	reason = flow_seen(skb, ct, f, c);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_POD);
	to = ct->ifindex[!f->from];
	to_host = flow_to_host(ct, f->from);
	if (!translated)
		flow_ended(ct, f);
	if (!translated && !to && !to_host)
		return leave(skb);
	/* A masqueraded packet is routed by the source that it has here; the
	 * stack gets it as it is, and to_net rewrites it.
	 */
	if (!to && !to_host && !(ct->flags & CT_REWRITE_DST)) {
		if (!flow_route(skb, false))
			return TC_ACT_OK;
		if (flow_translate(skb, f, ct, before) ||
		    ttl_decrement(skb, &f->packet))
			return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
		return route_send(skb, &f->route);
	}
	if (translated && flow_translate(skb, f, ct, before))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
	if (to)
		return bpf_redirect_peer(to, 0);
	return to_host ? TC_ACT_OK : leave(skb);
}

/* serve begins a flow to a Service. */
INLINE int serve(struct __sk_buff *skb, struct flow *f,
		 const struct control *c, const struct frontend *fe)
{
	struct packet *p = &f->packet;
	struct translation *t = &f->translation;
	int reason;

	if (!frontend_admits(fe, &p->src))
		return flow_drop(skb, DROP_SOURCE_RANGE, PLACE_FROM_POD);
	reason = flow_choose(skb, fe->service, 0);
	if (reason != DROP_NONE)
		return flow_deny(skb, reason, PLACE_FROM_POD);
	if (p->proto == IPPROTO_TCP && !packet_opens_tcp(p))
		return flow_reject(skb, DROP_NOT_SYN, PLACE_FROM_POD);
	t->from_ifindex = skb->ifindex;
	if (addr_equal(&t->dst, &p->src)) {
		/* A pod would answer itself directly, and not the Service. */
		t->flags |= CT_REWRITE_SRC;
		router_of(&t->src, p->v6);
	}
	reason = flow_allowed(skb, f, c, &t->dst, t->dport, false);
	if (reason == DROP_NONE)
		reason = flow_create(skb);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_POD);
	if (t->to_ifindex)
		return bpf_redirect_peer(t->to_ifindex, 0);
	return t->flags & CT_TO_HOST ? TC_ACT_OK : leave(skb);
}

/* begin sends the first packet of a flow. */
INLINE int begin(struct __sk_buff *skb, struct flow *f,
		 const struct control *c)
{
	struct packet *p = &f->packet;
	struct frontend *fe = NULL;
	enum drop_reason reason;
	__u32 to;

	if (!source_ours(skb, p))
		return flow_drop(skb, DROP_SPOOFED, PLACE_FROM_POD);
	if (!packet_icmp(p))
		fe = frontend_lookup(&p->dst, p->dport, p->proto, false);
	if (fe)
		return serve(skb, f, c, fe);
	if (services_contain(&p->dst))
		return flow_reject(skb, DROP_NO_SERVICE, PLACE_FROM_POD);
	reason = flow_allowed(skb, f, c, &p->dst, p->dport, false);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_POD);
	to = flow_device(&p->dst);
	if (to) {
		flow_track(skb, f, c, 0, skb->ifindex, to);
		return bpf_redirect_peer(to, 0);
	}
	if (node_is_local(&p->dst)) {
		flow_track(skb, f, c, CT_TO_HOST, skb->ifindex, 0);
		return TC_ACT_OK;
	}
	if (pods_contain(&p->dst))
		return flow_reject(skb, DROP_NO_ENDPOINT, PLACE_FROM_POD);
	if (addr_special(&p->dst))
		return TC_ACT_OK;
	if (cluster_contains(&p->dst)) {
		flow_track(skb, f, c, 0, skb->ifindex, 0);
		return leave(skb);
	}
	/* Late packets of a connection that is over. With another source port
	 * nobody knows them, and their entry would stay for hours.
	 */
	if (p->proto == IPPROTO_TCP && !packet_opens_tcp(p))
		return flow_reject(skb, DROP_NOT_SYN, PLACE_FROM_POD);
	if (!flow_route(skb, false))
		return TC_ACT_OK;
	return masquerade(skb, f);
}

/* report sends an ICMP error about a translated flow: see quote_find. */
INLINE int report(struct __sk_buff *skb, struct flow *f)
{
	struct packet *p = &f->packet;
	__u32 to;

	/* As with the flow itself: if only the source changes it is routed by
	 * the one that it has here, and the stack gets it as it is.
	 */
	to = flow_device(&p->dst);
	if (!(f->entry.flags & CT_REWRITE_DST) && !to) {
		if (!flow_route(skb, false))
			return TC_ACT_OK;
		if (quote_rewrite(skb) || ttl_decrement(skb, p))
			return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
		return route_send(skb, &f->route);
	}
	if (quote_rewrite(skb))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
	to = flow_device(&p->dst);
	if (to)
		return bpf_redirect_peer(to, 0);
	return node_is_local(&p->dst) ? TC_ACT_OK : leave(skb);
}

/* portless sends what belongs to no flow by itself: fragments, ICMP errors,
 * other protocols. But for errors about translated flows they go where their
 * addresses say; nothing is translated.
 */
INLINE int portless(struct __sk_buff *skb, struct flow *f,
		    const struct control *c)
{
	struct packet *p = &f->packet;
	enum drop_reason reason = DROP_NONE;
	__u32 to;

	if (!source_ours(skb, p))
		return flow_drop(skb, DROP_SPOOFED, PLACE_FROM_POD);
	/* A pod is no router: it reports on what was sent to itself. */
	if (p->quote && quote_find(skb) &&
	    addr_equal(&f->quoted.src, &p->src))
		return report(skb, f);
	if (!quote_known(f) || !addr_equal(&f->quoted.src, &p->src))
		reason = flow_allowed(skb, f, c, &p->dst, 0, false);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_FROM_POD);
	to = flow_device(&p->dst);
	if (to)
		return bpf_redirect_peer(to, 0);
	if (node_is_local(&p->dst) || addr_special(&p->dst))
		return TC_ACT_OK;
	if (pods_contain(&p->dst))
		return flow_drop(skb, DROP_NO_ENDPOINT, PLACE_FROM_POD);
	if (cluster_contains(&p->dst))
		return leave(skb);
	return flow_drop(skb, p->fragment ? DROP_FRAGMENT : DROP_UNSUPPORTED,
			 PLACE_FROM_POD);
}

/* asks_dns tells whether the packet is for this node's DNS server, by UDP. */
INLINE bool asks_dns(const struct packet *p)
{
	struct addr router;

	if (p->proto != IPPROTO_UDP || p->dport != bpf_htons(DNS_PORT))
		return false;
	router_of(&router, p->v6);
	return addr_equal(&router, &p->dst);
}

/* resolve answers for the DNS server. What the pod may not ask is left to be
 * dropped, and what is not answered to be sent on. Returns a verdict, or
 * DNS_PASS.
 */
SEPARATE int resolve(struct __sk_buff *skb)
{
	const struct control *c = control_get();
	struct flow *f = flow_get();

	if (!c || !f || !source_ours(skb, &f->packet) ||
	    flow_allowed(skb, f, c, &f->packet.dst, f->packet.dport, false) !=
		    DROP_NONE)
		return DNS_PASS;
	return dns_answer(skb);
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	int kind = flow_parse(skb, PLACE_FROM_POD);
	const struct control *c = control_get();
	struct flow *f = flow_get();
	struct conntrack *ct;

	if (!c || !f)
		return TC_ACT_SHOT;
	if (kind == KIND_BAD)
		return flow_drop(skb, DROP_MALFORMED, PLACE_FROM_POD);
	if (kind == KIND_OTHER)
		return flow_drop(skb, DROP_UNSUPPORTED, PLACE_FROM_POD);
	if (kind == KIND_ARP ? !arp_ours(skb)
	    : kind == KIND_NEIGHBOUR && !neighbour_ours(skb, &f->packet))
		return flow_drop(skb, DROP_SPOOFED, PLACE_FROM_POD);
	if (kind != KIND_IP)
		return TC_ACT_OK;
	if (!f->packet.has_ports)
		return early(skb, &f->packet)
			       ? bpf_redirect(skb->ifindex, BPF_F_INGRESS)
			       : portless(skb, f, c);
	if (asks_dns(&f->packet)) {
		kind = resolve(skb);
		if (kind != DNS_PASS)
			return kind;
	}
	ct = flow_find(f);
	/* The entry knows the device of the pod: another pod that uses its
	 * address takes the long way, where it is found out.
	 */
	if (ct && ct->ifindex[f->from & 1] == skb->ifindex &&
	    !flow_begins_anew(f, ct))
		return known(skb, f, ct, c);
	if (ct && ct->epoch != c->epoch && source_ours(skb, &f->packet) &&
	    !flow_begins_anew(f, ct))
		return known(skb, f, ct, c);
	return begin(skb, f, c);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	int kind = flow_parse(skb, PLACE_TO_POD);
	const struct control *c = control_get();
	struct flow *f = flow_get();
	enum drop_reason reason = DROP_NONE;
	struct conntrack *ct;
	__u32 before;

	if (!c || !f || kind != KIND_IP)
		return TC_ACT_OK;
	if (f->packet.quote && !quote_pass(skb))
		return flow_drop(skb, DROP_REWRITE, PLACE_TO_POD);
	if (!f->packet.has_ports) {
		if (!quote_known(f))
			reason = flow_allowed(skb, f, c, &f->packet.dst, 0,
					      false);
		return reason == DROP_NONE
			       ? TC_ACT_OK
			       : flow_drop(skb, reason, PLACE_TO_POD);
	}
	ct = flow_find(f);
	if (!ct || flow_begins_anew(f, ct)) {
		reason = flow_allowed(skb, f, c, &f->packet.dst,
				      f->packet.dport, false);
		if (reason != DROP_NONE)
			return flow_drop(skb, reason, PLACE_TO_POD);
		flow_track(skb, f, c,
			   node_is_local(&f->packet.src) ? CT_FROM_HOST : 0, 0,
			   skb->ifindex);
		return TC_ACT_OK;
	}
	if (!conntrack_applies(ct, f->from))
		return TC_ACT_OK;
	before = ct->flags;
	reason = flow_seen(skb, ct, f, c);
	if (reason != DROP_NONE)
		return flow_drop(skb, reason, PLACE_TO_POD);
	if (!conntrack_translated(ct)) {
		flow_ended(ct, f);
		return TC_ACT_OK;
	}
	if (flow_translate(skb, f, ct, before))
		return flow_drop(skb, DROP_REWRITE, PLACE_TO_POD);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
