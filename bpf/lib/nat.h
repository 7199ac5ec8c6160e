/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * nat: translated flows: choosing a source port, making the two entries, and
 * rewriting packets with their checksums. The helpers that fix the checksums
 * know complete ones and ones that a device is yet to finish.
 */
#ifndef SKEP_NAT_H
#define SKEP_NAT_H

#include "config.h"
#include "conntrack.h"
#include "drop.h"
#include "packet.h"

/* A flow finds a free port within this many random tries, or is refused. */
#define NAT_TRIES 16

/* No reason: the translation was made. */
#define DROP_NONE DROP_REASON_COUNT

/* translation: a new flow as the other side shall see it. */
struct translation {
	struct addr src;    /* with CT_REWRITE_SRC */
	struct addr dst;    /* with CT_REWRITE_DST */
	__be16 dport;	    /* with CT_REWRITE_DST */
	__u32 flags;	    /* CT_REWRITE_*, CT_TO_HOST, CT_FROM_HOST */
	__u32 from_ifindex; /* of the pod that begins; 0: none */
	__u32 to_ifindex;   /* of the pod that answers; 0: none */
	__u32 service;
};

/* nat_end writes one address and port into the frame. addr_off is the offset
 * of the address, port_off of the port or ICMP id.
 */
INLINE int nat_end(struct __sk_buff *skb, const struct packet *p,
		   __u32 addr_off, __be32 old_addr, __be32 addr,
		   __u32 port_off, __be16 old_port, __be16 port)
{
	__u64 mangled = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 csum = p->l4 + (p->proto == IPPROTO_TCP	? TCP_CSUM
			      : p->proto == IPPROTO_UDP ? UDP_CSUM
							: ICMP_CSUM);
	int err = 0;

	if (p->proto != IPPROTO_ICMP)
		err |= bpf_l4_csum_replace(skb, csum, old_addr, addr,
					   4 | BPF_F_PSEUDO_HDR | mangled);
	if (old_port != port) {
		err |= bpf_l4_csum_replace(skb, csum, old_port, port,
					   2 | mangled);
		err |= bpf_skb_store_bytes(skb, port_off, &port, 2, 0);
	}
	err |= bpf_l3_csum_replace(skb, IP_OFF(check), old_addr, addr, 4);
	err |= bpf_skb_store_bytes(skb, addr_off, &addr, 4, 0);
	return err;
}

/* nat_rewrite makes the packet what the entry says, in the frame and in *p. */
INLINE int nat_rewrite(struct __sk_buff *skb, struct packet *p,
		       const struct conntrack *ct)
{
	bool icmp = p->proto == IPPROTO_ICMP;
	struct addr src = ct->src, dst = ct->dst;
	__be16 sport = ct->sport, dport = ct->dport;
	__u32 flags = ct->flags;
	int err = 0;

	if (flags & CT_REWRITE_SRC) {
		err |= nat_end(skb, p, IP_OFF(saddr), addr_v4(&p->src),
			       addr_v4(&src), p->l4 + (icmp ? ICMP_ID : 0),
			       p->sport, sport);
		p->src = src;
		p->sport = sport;
	}
	if (flags & CT_REWRITE_DST) {
		err |= nat_end(skb, p, IP_OFF(daddr), addr_v4(&p->dst),
			       addr_v4(&dst), p->l4 + (icmp ? ICMP_ID : 2),
			       p->dport, dport);
		p->dst = dst;
		p->dport = dport;
	}
	return err;
}

/* nat_port draws a source port of the range kept for translated flows. */
INLINE __be16 nat_port(void)
{
	__u32 n = nat_port_max - nat_port_min + 1;

	return bpf_htons(nat_port_min +
			 (((__u64)bpf_get_prandom_u32() * n) >> 32));
}

/* nat_reply fills the entry and key of the answering side, and returns the
 * index of the beginning end in the key.
 */
INLINE __u32 nat_reply(struct conntrack_key *key, struct conntrack *reply,
		       const struct packet *p, const struct translation *t,
		       __be16 sport)
{
	bool snat = t->flags & CT_REWRITE_SRC;
	bool dnat = t->flags & CT_REWRITE_DST;
	__u32 from;

	from = conntrack_key_of(key, snat ? &t->src : &p->src, sport,
				dnat ? &t->dst : &p->dst,
				dnat ? t->dport : p->dport, p->proto);
	if (dnat) {
		reply->src = p->dst;
		reply->sport = p->dport;
	}
	if (snat) {
		reply->dst = p->src;
		reply->dport = p->sport;
	}
	reply->flags = CT_REPLY_SIDE | conntrack_from_flag(from) |
		       (dnat ? CT_REWRITE_SRC : 0) |
		       (snat ? CT_REWRITE_DST : 0) |
		       (t->flags & (CT_TO_HOST | CT_FROM_HOST));
	conntrack_devices(reply, from, t->from_ifindex, t->to_ifindex);
	return from;
}

/* nat_replaceable tells whether the entry in the way of a flow whose source
 * is kept is a left-over: of the same flow begun again, or of a closed one.
 */
INLINE bool nat_replaceable(const struct conntrack_key *key,
			    const struct conntrack *reply)
{
	struct conntrack *old = bpf_map_lookup_elem(&conntrack, key);

	if (!old || conntrack_closed(old))
		return true;
	return (old->flags & CT_REPLY_SIDE) && old->sport == reply->sport &&
	       addr_equal(&old->src, &reply->src);
}

/* nat_keep reserves for a flow whose source is kept. A client may use one
 * port for two addresses of a Service, and be given the same backend: then
 * -EEXIST.
 */
INLINE long nat_keep(struct conntrack_key *key, struct conntrack *reply,
		     const struct packet *p, const struct translation *t)
{
	long err;

	nat_reply(key, reply, p, t, p->sport);
	err = bpf_map_update_elem(&conntrack, key, reply, BPF_NOEXIST);
	if (err == -EEXIST && nat_replaceable(key, reply))
		err = bpf_map_update_elem(&conntrack, key, reply, BPF_ANY);
	return err;
}

/* nat_reserve inserts the answering side: whoever does that owns the port. A
 * flow that cannot keep its source port gets another one.
 */
INLINE enum drop_reason nat_reserve(struct conntrack_key *key,
				    struct conntrack *reply,
				    const struct packet *p,
				    struct translation *t, __be16 *sport)
{
	long err = 0;

	if (!(t->flags & CT_REWRITE_SRC)) {
		*sport = p->sport;
		err = nat_keep(key, reply, p, t);
		if (err != -EEXIST)
			return err ? DROP_TABLE_FULL : DROP_NONE;
		t->flags |= CT_REWRITE_SRC;
		t->src = p->src;
	}
	for (int i = 0; i < NAT_TRIES; i++) {
		*sport = nat_port();
		nat_reply(key, reply, p, t, *sport);
		err = bpf_map_update_elem(&conntrack, key, reply, BPF_NOEXIST);
		if (err != -EEXIST)
			break;
	}
	if (err == -EEXIST)
		return DROP_PORTS_EXHAUSTED;
	return err ? DROP_TABLE_FULL : DROP_NONE;
}

/* nat_create makes the two entries of a translated flow; *ct gets the one of
 * the beginning side, by which the packet at hand is to be rewritten.
 */
INLINE enum drop_reason nat_create(const struct packet *p,
				   struct translation *t,
				   const struct control *c,
				   struct conntrack *ct)
{
	struct conntrack reply = {
		.epoch = c->epoch,
		.last_seen = c->generation,
		.service = t->service,
	};
	struct conntrack_key key, first;
	enum drop_reason reason;
	__be16 sport = 0;
	__u32 from;

	reason = nat_reserve(&key, &reply, p, t, &sport);
	if (reason != DROP_NONE)
		return reason;
	__builtin_memset(ct, 0, sizeof(*ct));
	ct->src = t->src;
	ct->dst = t->dst;
	ct->sport = sport;
	ct->dport = t->dport;
	ct->epoch = c->epoch;
	ct->last_seen = c->generation;
	ct->service = t->service;
	from = conntrack_key_of(&first, &p->src, p->sport, &p->dst, p->dport,
				p->proto);
	ct->flags = t->flags | conntrack_from_flag(from) |
		    (packet_opens_tcp(p) ? CT_SYN : 0);
	conntrack_devices(ct, from, t->from_ifindex, t->to_ifindex);
	if (!bpf_map_update_elem(&conntrack, &first, ct, BPF_ANY))
		return DROP_NONE;
	bpf_map_delete_elem(&conntrack, &key);
	return DROP_TABLE_FULL;
}

#endif
