/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * flow: what the packet programs do alike: keeping entries current, sending
 * packets of known flows, and beginning translated ones.
 */
#ifndef SKEP_FLOW_H
#define SKEP_FLOW_H

#include "endpoint.h"
#include "event.h"
#include "reject.h"
#include "reserve.h"
#include "scratch.h"
#include "service.h"
#include "traffic.h"

/* flow_parse begins with a packet: it fills in the packet of an otherwise
 * empty flow. Returns its enum kind.
 */
SEPARATE int flow_parse(struct __sk_buff *skb, __u32 place)
{
	struct flow *f = flow_get();

	if (!f)
		return KIND_BAD;
	__builtin_memset(f, 0, offsetof(struct flow, key));
	f->entry.flags = 0;
	f->place = place;
	return parse(skb, &f->packet);
}

/* flow_translated fills in what the flow at hand becomes: what its entry says
 * or, without one, what was meant to be its entry.
 */
INLINE void flow_translated(const struct flow *f, struct event *e)
{
	const struct translation *t = &f->translation;
	const struct conntrack *ct = &f->entry;
	bool known = ct->flags;
	__u32 flags = known ? ct->flags : t->flags;

	e->service = known ? ct->service : t->service;
	if (flags & CT_REWRITE_SRC) {
		e->new_src = known ? ct->src : t->src;
		e->new_sport = ct->sport;
	}
	if (flags & CT_REWRITE_DST) {
		e->new_dst = known ? ct->dst : t->dst;
		e->new_dport = known ? ct->dport : t->dport;
	}
	e->reply = known && (flags & CT_REPLY_SIDE);
}

/* flow_event tells who watches of the packet at hand, before it is rewritten.
 * Returns 0.
 */
SEPARATE int flow_event(struct __sk_buff *skb, __u32 kind, __u32 reason)
{
	struct flow *f = flow_get();
	struct watch *w = watch_get();
	struct event *e;

	if (!f || !w)
		return 0;
	e = event_begin(w);
	if (!e)
		return 0;
	e->src = f->packet.src;
	e->dst = f->packet.dst;
	e->sport = f->packet.sport;
	e->dport = f->packet.dport;
	flow_translated(f, e);
	e->ifindex = skb->ifindex;
	e->egress = f->question.egress;
	e->ingress = f->question.ingress;
	e->length = skb->len;
	e->kind = kind;
	e->reason = reason;
	e->place = f->place;
	e->proto = f->packet.proto;
	e->tcp = f->packet.tcp;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* flow_rewrite makes the packet what f->entry says. Returns 0, or negative
 * if the kernel refused.
 */
SEPARATE int flow_rewrite(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	return f ? nat_rewrite(skb, &f->packet, &f->entry) : -1;
}

/* flow_create makes the entries of a translated flow, as f->translation says,
 * and rewrites the packet. Returns DROP_NONE or an enum drop_reason.
 */
SEPARATE int flow_create(struct __sk_buff *skb)
{
	const struct control *c = control_get();
	struct flow *f = flow_get();
	enum drop_reason reason;

	if (!f || !c)
		return DROP_REWRITE;
	reason = reserve_flow(skb, f, c);
	if (reason == DROP_NONE) {
		traffic_begin(f->entry.service, skb->len);
		if (watch_get())
			flow_event(skb, EVENT_NEW, DROP_NONE);
	}
	if (reason == DROP_NONE && nat_rewrite(skb, &f->packet, &f->entry))
		return DROP_REWRITE;
	return reason;
}

/* flow_route asks the routing table where the packet is to go, or where it is
 * to go once translated. The answer is in f->route. False: see route_find.
 */
SEPARATE int flow_route(struct __sk_buff *skb, bool translated)
{
	struct flow *f = flow_get();
	struct addr src, dst;
	int found;

	if (!f)
		return false;
	src = f->packet.src;
	dst = f->packet.dst;
	if (translated && (f->translation.flags & CT_REWRITE_SRC))
		f->packet.src = f->translation.src;
	if (translated && (f->translation.flags & CT_REWRITE_DST))
		f->packet.dst = f->translation.dst;
	found = route_find(skb, &f->packet, &f->route);
	f->packet.src = src;
	f->packet.dst = dst;
	return found;
}

/* flow_refuse answers the packet with a refusal. Returns a verdict. */
SEPARATE int flow_refuse(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	return f ? reject(skb, &f->packet) : TC_ACT_SHOT;
}

/* flow_answer_large tells the sender of a packet that it is larger than
 * f->route.mtu, by the packet as the sender knows it. Returns a verdict, or
 * negative if the sender is not to be told: the stack may cut the packet.
 */
SEPARATE int flow_answer_large(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	if (!f || !f->route.mtu)
		return -1;
	return reject_large(skb, &f->packet, f->route.mtu);
}

/* flow_answer_expired tells the sender of a packet that it has no hop left.
 * Returns a verdict.
 */
SEPARATE int flow_answer_expired(struct __sk_buff *skb)
{
	struct flow *f = flow_get();

	return f ? reject_expired(skb, &f->packet) : TC_ACT_SHOT;
}

INLINE int flow_drop(struct __sk_buff *skb, enum drop_reason reason,
		     enum place place)
{
	drop_count(reason, place, skb->len);
	if (watch_get())
		flow_event(skb, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}

INLINE int flow_reject(struct __sk_buff *skb, enum drop_reason reason,
		       enum place place)
{
	drop_count(reason, place, skb->len);
	if (watch_get())
		flow_event(skb, EVENT_DROP, reason);
	return flow_refuse(skb);
}

INLINE __u32 flow_device(const struct addr *addr)
{
	struct endpoint *e = endpoint_lookup(addr);

	return e ? e->ifindex : 0;
}

/* mix stirs a word into a hash (the mixing of MurmurHash3). */
INLINE __u32 mix(__u32 hash, __u32 word)
{
	word *= 0xcc9e2d51;
	word = (word << 15) | (word >> 17);
	hash ^= word * 0x1b873593;
	hash = (hash << 13) | (hash >> 19);
	return hash * 5 + 0xe6546b64;
}

/* flow_hash is a number for the client and the port that it asks for: the same
 * on all nodes, and never 0.
 */
INLINE __u32 flow_hash(const struct packet *p)
{
	__u32 hash = p->proto;

	for (int i = 0; i < 4; i++)
		hash = mix(hash, addr_word(&p->src, i));
	hash = mix(hash, (__u32)bpf_ntohs(p->sport) << 16 |
				 bpf_ntohs(p->dport));
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	return hash ? hash : 1;
}

/* flow_choose begins the translation of a new flow to a Service: the backend.
 * hash is the flow's if it comes from outside, else 0. Returns DROP_NONE, or
 * why there is none.
 */
SEPARATE int flow_choose(struct __sk_buff *skb, __u32 id, __u32 hash)
{
	struct flow *f = flow_get();
	struct service *s = service_get(id);
	struct translation *t;
	struct backend *b;
	__u32 index;

	if (!f || !s || !skb)
		return DROP_NO_BACKEND;
	t = &f->translation;
	t->service = id;
	b = service_choose(id, s, &f->packet.src, hash, &index);
	if (!b) {
		traffic_refused(id);
		return s->flags & SERVICE_SILENT ? DROP_NO_LOCAL_BACKEND
						 : DROP_NO_BACKEND;
	}
	t->flags = CT_REWRITE_DST;
	t->direct = s->flags & SERVICE_DSR;
	t->dst = b->addr;
	t->dport = b->port;
	t->to_ifindex = flow_device(&t->dst);
	if (!t->to_ifindex && node_is_local(&t->dst))
		t->flags |= CT_TO_HOST;
	return DROP_NONE;
}

/* flow_deny ends a flow that no backend takes. */
INLINE int flow_deny(struct __sk_buff *skb, int reason, enum place place)
{
	return reason == DROP_NO_LOCAL_BACKEND
		       ? flow_drop(skb, reason, place)
		       : flow_reject(skb, reason, place);
}

/* flow_find fills in the key and looks up the entry. */
INLINE struct conntrack *flow_find(struct flow *f)
{
	struct packet *p = &f->packet;

	f->from = conntrack_key_of(&f->key, &p->src, p->sport, &p->dst,
				   p->dport, p->proto);
	return bpf_map_lookup_elem(&conntrack, &f->key);
}

/* flow_begins_anew tells whether the packet opens a connection that only
 * looks like the one in the table.
 */
INLINE bool flow_begins_anew(const struct flow *f, const struct conntrack *ct)
{
	return packet_opens_tcp(&f->packet) && conntrack_closed(ct);
}

/* flow_ends tells whether a packet is the last one that a flow is expected to
 * have: what follows the last finish, or a reset.
 */
INLINE bool flow_ends(const struct conntrack *ct, const struct packet *p)
{
	return conntrack_closed(ct) && !(p->tcp & TCP_FIN);
}

/* question_dns tells whether q is for the DNS server of this node. */
INLINE bool question_dns(const struct question *q)
{
	struct addr router;

	if (q->port != bpf_htons(DNS_PORT) ||
	    (q->proto != IPPROTO_UDP && q->proto != IPPROTO_TCP))
		return false;
	router_of(&router, !addr_is_v4(&q->to));
	return addr_equal(&router, &q->to);
}

/* question_egress tells whether a set allows the flow to its sender. A pod
 * always reaches its own node.
 */
INLINE bool question_egress(__u32 set, const struct question *q)
{
	__u32 who = policy_identity(&q->to);

	if (who == PEER_ANY && node_is_local(&q->to)) {
		if (!question_dns(q))
			return true;
		who = PEER_DNS;
	}
	return policy_allows(set, &q->to, who, q);
}

/* question_ingress tells whether a set allows the flow to its receiver. The
 * node always reaches its own pods.
 */
INLINE bool question_ingress(__u32 set, const struct question *q)
{
	__u32 who = policy_identity(&q->from);

	if (who == PEER_ANY && !q->outside && node_is_local(&q->from))
		return true;
	return policy_allows(set, &q->from, who, q);
}

/* flow_verdict answers f->question for those ends that are pods of this node.
 * Returns DROP_NONE, or why not.
 */
SEPARATE int flow_verdict(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct endpoint *from, *to;
	struct question *q;

	/* An argument that is not used is not passed, and the verifier wants
	 * the context of a separate function to be one.
	 */
	asm volatile("" : : "r"(skb));
	if (!f)
		return DROP_POLICY_INGRESS;
	q = &f->question;
	/* What a pod sends to itself is nobody else's affair. */
	if (addr_equal(&q->from, &q->to))
		return DROP_NONE;
	from = endpoint_lookup(&q->from);
	q->egress = from ? from->egress : 0;
	if (from && from->egress && !question_egress(from->egress, q))
		return DROP_POLICY_EGRESS;
	to = endpoint_lookup(&q->to);
	q->ingress = to ? to->ingress : 0;
	if (to && to->ingress && !question_ingress(to->ingress, q))
		return DROP_POLICY_INGRESS;
	return DROP_NONE;
}

/* flow_allowed asks the policies about a packet that begins a flow to an
 * address, where it ends up. Returns DROP_NONE, or why it is denied.
 */
INLINE enum drop_reason flow_allowed(struct __sk_buff *skb, struct flow *f,
				     const struct control *c,
				     const struct addr *to, __be16 port,
				     bool outside)
{
	struct question *q = &f->question;

	if (!c->isolation)
		return DROP_NONE;
	q->from = f->packet.src;
	q->to = *to;
	q->port = port;
	q->proto = f->packet.proto;
	q->outside = outside;
	return flow_verdict(skb);
}

/* flow_still_allowed asks the policies about a packet of a flow in the table,
 * in either direction. dst is where the packet ends up.
 */
INLINE enum drop_reason flow_still_allowed(struct __sk_buff *skb,
					   const struct conntrack *ct,
					   struct flow *f,
					   const struct addr *dst)
{
	const struct packet *p = &f->packet;
	struct question *q = &f->question;

	q->proto = p->proto;
	if (!conntrack_forward(ct, f->from)) {
		q->from = *dst;
		q->to = p->src;
		q->port = p->sport;
		return flow_verdict(skb);
	}
	q->from = p->src;
	q->to = *dst;
	q->port = ct->flags & CT_REWRITE_DST ? ct->dport : p->dport;
	return flow_verdict(skb);
}

/* flow_decide renews the decision of an entry of an older epoch: whether the
 * flow may be, the device of the packet's source, and of the destination that
 * it gets. A flow that is denied keeps its old epoch, and asks again.
 */
INLINE enum drop_reason flow_decide(struct __sk_buff *skb, struct conntrack *ct,
				    struct flow *f, const struct control *c)
{
	enum drop_reason reason = DROP_NONE;
	__u32 epoch = c->epoch;
	struct addr dst;

	dst = ct->flags & CT_REWRITE_DST ? ct->dst : f->packet.dst;
	if (c->isolation)
		reason = flow_still_allowed(skb, ct, f, &dst);
	if (reason != DROP_NONE)
		return reason;
	conntrack_devices(ct, f->from, flow_device(&f->packet.src),
			  flow_device(&dst));
	ct->epoch = epoch;
	return DROP_NONE;
}

/* flow_watched tells whether a packet of a known flow, whose flags are noted,
 * makes an event.
 */
INLINE bool flow_watched(struct flow *f, const struct conntrack *ct)
{
	const struct watch *w = watch_get();

	if (!w)
		return false;
	if (flow_ends(ct, &f->packet))
		return true;
	if (!w->every || ++f->unwatched < w->every)
		return false;
	f->unwatched = 0;
	return true;
}

/* flow_seen notes what a packet says about its flow. It writes only what
 * changes, so that a busy flow's cache line stays shared.
 */
INLINE enum drop_reason flow_seen(struct __sk_buff *skb, struct conntrack *ct,
				  struct flow *f, const struct control *c)
{
	__u32 news = conntrack_news(&f->packet, conntrack_forward(ct, f->from));
	enum drop_reason reason;

	if (ct->epoch != c->epoch) {
		reason = flow_decide(skb, ct, f, c);
		if (reason != DROP_NONE)
			return reason;
	}
	if (ct->last_seen != c->generation)
		ct->last_seen = c->generation;
	if (news & ~ct->flags)
		ct->flags |= news;
	/* Who goes on after a reset did not believe it. */
	if ((ct->flags & CT_RST) && !(f->packet.tcp & TCP_RST))
		ct->flags &= ~CT_RST;
	if (flow_watched(f, ct)) {
		f->entry = *ct;
		flow_event(skb,
			   flow_ends(ct, &f->packet) ? EVENT_END : EVENT_PACKET,
			   DROP_NONE);
	}
	return DROP_NONE;
}

/* flow_over tells whether the packet is what follows the last finish: then
 * both ends know of the end, and the flow need not wait for the collector.
 * A reset is not enough: it may be forged.
 */
INLINE bool flow_over(const struct conntrack *ct, const struct packet *p)
{
	__u32 both = CT_FIN_FROM | CT_FIN_TO;

	return (ct->flags & both) == both && !(p->tcp & TCP_FIN);
}

/* flow_tell gives what ended or answered a translated flow to the entry of
 * its other side, or removes both entries if the flow is over. The packet is
 * rewritten by now.
 */
INLINE void flow_tell(const struct flow *f, __u32 news, bool over)
{
	const struct packet *p = &f->packet;
	struct conntrack_key key;
	struct conntrack *other;

	conntrack_key_of(&key, &p->src, p->sport, &p->dst, p->dport, p->proto);
	other = bpf_map_lookup_elem(&conntrack, &key);
	if (over) {
		traffic_sum(&f->entry);
		if (other)
			traffic_sum(other);
		bpf_map_delete_elem(&conntrack, &key);
		bpf_map_delete_elem(&conntrack, &f->key);
		return;
	}
	if (other && (news & ~other->flags))
		other->flags |= news;
}

/* flow_translate rewrites a packet of a translated flow. before are the flags
 * before the packet was seen. The entry may be gone afterwards.
 */
INLINE int flow_translate(struct __sk_buff *skb, struct flow *f,
			  struct conntrack *ct, __u32 before)
{
	__u32 news = ct->flags & ~before;
	bool over = flow_over(ct, &f->packet);

	traffic_count(ct, skb->len);
	f->entry = *ct;
	if (flow_rewrite(skb))
		return -1;
	if (news || over)
		flow_tell(f, news, over);
	return 0;
}

/* flow_to_host tells whether packets of this direction are for this node's
 * own stack.
 */
INLINE bool flow_to_host(const struct conntrack *ct, __u32 from)
{
	return ct->flags &
	       (conntrack_forward(ct, from) ? CT_TO_HOST : CT_FROM_HOST);
}

/* flow_track inserts the entry of a flow that is not translated. A full
 * table is no reason to refuse it: nothing depends on the entry.
 */
INLINE void flow_track(struct __sk_buff *skb, const struct flow *f,
		       const struct control *c, __u32 flags,
		       __u32 from_ifindex, __u32 to_ifindex)
{
	struct conntrack ct = {
		.epoch = c->epoch,
		.last_seen = c->generation,
		.flags = flags | conntrack_from_flag(f->from) |
			 (packet_opens_tcp(&f->packet) ? CT_SYN : 0),
	};

	/* The last packets of a connection do not begin one. */
	if (f->packet.tcp & (TCP_FIN | TCP_RST))
		return;
	conntrack_devices(&ct, f->from, from_ifindex, to_ifindex);
	bpf_map_update_elem(&conntrack, &f->key, &ct, BPF_ANY);
	if (watch_get())
		flow_event(skb, EVENT_NEW, DROP_NONE);
}

/* flow_ended removes an entry that is not translated once both ends have
 * finished: short connections leave nothing for the collector.
 */
INLINE void flow_ended(const struct conntrack *ct, const struct flow *f)
{
	if (!conntrack_translated(ct) && flow_ends(ct, &f->packet))
		bpf_map_delete_elem(&conntrack, &f->key);
}

#endif
