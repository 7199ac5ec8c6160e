/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * reserve: the two entries of a new translated flow, and its source port. The
 * answering side goes first: who inserts that owns the port.
 */
#ifndef SKEP_RESERVE_H
#define SKEP_RESERVE_H

#include "config.h"
#include "scratch.h"

/* A flow finds a free port within this many random tries, or is refused. Among
 * the first half closed flows are left alone: who was reset may not believe it.
 */
#define RESERVE_TRIES 16
#define RESERVE_TRIES_FREE (RESERVE_TRIES / 2)

/* reserve_port draws a source port of the range kept for translated flows. */
INLINE __be16 reserve_port(void)
{
	__u32 n = nat_port_max - nat_port_min + 1;

	return bpf_htons(nat_port_min +
			 (((__u64)bpf_get_prandom_u32() * n) >> 32));
}

/* reserve_answers fills in entry and key of the answering side of a flow whose
 * source port becomes sport.
 */
INLINE void reserve_answers(struct flow *f, __be16 sport)
{
	const struct translation *t = &f->translation;
	const struct packet *p = &f->packet;
	struct conntrack *ct = &f->entry;
	bool snat = t->flags & CT_REWRITE_SRC;
	bool dnat = t->flags & CT_REWRITE_DST;
	__u32 from;

	f->sport = sport;
	from = conntrack_key_of(&f->answers, snat ? &t->src : &p->src, sport,
				dnat ? &t->dst : &p->dst,
				dnat ? t->dport : p->dport, p->proto);
	if (dnat) {
		ct->src = p->dst;
		ct->sport = p->dport;
	}
	if (snat) {
		ct->dst = p->src;
		ct->dport = p->sport;
	}
	ct->flags = CT_REPLY_SIDE | conntrack_from_flag(from) |
		    (dnat ? CT_REWRITE_SRC : 0) | (snat ? CT_REWRITE_DST : 0) |
		    (t->flags & (CT_TO_HOST | CT_FROM_HOST));
	conntrack_devices(ct, from, t->from_ifindex, t->to_ifindex);
}

/* reserve_replaceable tells whether the entry in the way of a flow whose source
 * is kept is a left-over: of the same flow begun again, or of a closed one.
 */
INLINE bool reserve_replaceable(const struct flow *f)
{
	const struct conntrack *old;

	old = bpf_map_lookup_elem(&conntrack, &f->answers);
	if (!old || conntrack_closed(old))
		return true;
	return (old->flags & CT_REPLY_SIDE) && old->sport == f->entry.sport &&
	       addr_equal(&old->src, &f->entry.src);
}

/* reserve_insert inserts the answering side. Returns what the map says: before
 * 6.4 the upper half of that is not set, so it is an int.
 */
INLINE int reserve_insert(const struct flow *f, __u64 how)
{
	return bpf_map_update_elem(&conntrack, &f->answers, &f->entry, how);
}

/* reserve_keep reserves for a flow whose source is kept. A client may use one
 * port for two addresses of a Service, and be given the same backend: then
 * -EEXIST.
 */
SEPARATE int reserve_keep(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	int err;

	asm volatile("" : : "r"(skb)); /* see flow_verdict */
	if (!f)
		return -EINVAL;
	reserve_answers(f, f->packet.sport);
	err = reserve_insert(f, BPF_NOEXIST);
	if (err == -EEXIST && reserve_replaceable(f))
		err = reserve_insert(f, BPF_ANY);
	return err;
}

/* reserve_again gives a flow that begins anew the port that it had: its entries
 * are still there, so the port is its own. 0: it had none.
 */
INLINE __be16 reserve_again(const struct flow *f)
{
	const struct translation *t = &f->translation;
	const struct conntrack *old = bpf_map_lookup_elem(&conntrack, &f->key);

	if (!old || !(old->flags & CT_REWRITE_SRC) ||
	    (old->flags & CT_REPLY_SIDE) || !addr_equal(&old->src, &t->src))
		return 0;
	if ((t->flags & CT_REWRITE_DST) &&
	    (old->dport != t->dport || !addr_equal(&old->dst, &t->dst)))
		return 0;
	return old->sport;
}

/* reserve_evict takes the port of a closed flow, whose answering side is in the
 * way, by deleting its other side.
 */
INLINE bool reserve_evict(const struct flow *f)
{
	const struct translation *t = &f->translation;
	const struct packet *p = &f->packet;
	bool dnat = t->flags & CT_REWRITE_DST;
	const struct conntrack *old;
	struct conntrack_key first;

	old = bpf_map_lookup_elem(&conntrack, &f->answers);
	if (!old || !conntrack_closed(old) || !(old->flags & CT_REPLY_SIDE) ||
	    !(old->flags & CT_REWRITE_DST))
		return false;
	if (old->flags & CT_REWRITE_SRC)
		conntrack_key_of(&first, &old->dst, old->dport, &old->src,
				 old->sport, p->proto);
	else
		conntrack_key_of(&first, &old->dst, old->dport,
				 dnat ? &t->dst : &p->dst,
				 dnat ? t->dport : p->dport, p->proto);
	bpf_map_delete_elem(&conntrack, &first);
	return true;
}

/* reserve_draw tries one port, at random. evict: also that of a closed flow. */
SEPARATE int reserve_draw(struct __sk_buff *skb, bool evict)
{
	struct flow *f = flow_get();
	int err;

	asm volatile("" : : "r"(skb)); /* see flow_verdict */
	if (!f)
		return -EINVAL;
	reserve_answers(f, reserve_port());
	err = reserve_insert(f, BPF_NOEXIST);
	if (err == -EEXIST && evict && reserve_evict(f))
		err = reserve_insert(f, BPF_ANY);
	return err;
}

/* reserve_any reserves a port for a flow whose source is rewritten. */
INLINE int reserve_any(struct __sk_buff *skb, struct flow *f)
{
	__be16 again = reserve_again(f);
	int err = -EEXIST;

	if (again) {
		reserve_answers(f, again);
		return reserve_insert(f, BPF_ANY);
	}
	for (int i = 0; i < RESERVE_TRIES && err == -EEXIST; i++)
		err = reserve_draw(skb, i >= RESERVE_TRIES_FREE);
	return err;
}

/* reserve_source inserts the answering side. A flow that cannot keep its source
 * port gets another one.
 */
INLINE enum drop_reason reserve_source(struct __sk_buff *skb, struct flow *f)
{
	struct translation *t = &f->translation;
	int err;

	if (!(t->flags & CT_REWRITE_SRC)) {
		err = reserve_keep(skb);
		if (err != -EEXIST)
			return err ? DROP_TABLE_FULL : DROP_NONE;
		t->flags |= CT_REWRITE_SRC;
		t->src = f->packet.src;
	}
	err = reserve_any(skb, f);
	if (err == -EEXIST)
		return DROP_PORTS_EXHAUSTED;
	return err ? DROP_TABLE_FULL : DROP_NONE;
}

/* reserve_begin makes f->entry one of the flow's that is not filled in yet. */
INLINE void reserve_begin(struct flow *f, const struct control *c)
{
	__builtin_memset(&f->entry, 0, sizeof(f->entry));
	f->entry.epoch = c->epoch;
	f->entry.last_seen = c->generation;
	f->entry.service = f->translation.service;
}

/* reserve_flow makes the two entries of the translated flow that the packet at
 * hand begins; f->entry becomes the one by which that is to be rewritten.
 */
INLINE enum drop_reason reserve_flow(struct __sk_buff *skb, struct flow *f,
				     const struct control *c)
{
	const struct translation *t = &f->translation;
	struct conntrack *ct = &f->entry;
	enum drop_reason reason;

	reserve_begin(f, c);
	reason = reserve_source(skb, f);
	if (reason != DROP_NONE)
		return reason;
	reserve_begin(f, c);
	ct->src = t->src;
	ct->dst = t->dst;
	ct->sport = f->sport;
	ct->dport = t->dport;
	ct->flags = t->flags | conntrack_from_flag(f->from) |
		    (packet_opens_tcp(&f->packet) ? CT_SYN : 0);
	conntrack_devices(ct, f->from, t->from_ifindex, t->to_ifindex);
	if (!bpf_map_update_elem(&conntrack, &f->key, ct, BPF_ANY))
		return DROP_NONE;
	bpf_map_delete_elem(&conntrack, &f->answers);
	return DROP_TABLE_FULL;
}

#endif
