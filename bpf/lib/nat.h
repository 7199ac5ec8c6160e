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
	bool direct; /* of a service with SERVICE_DSR */
};

/* Since 6.16 a checksum helper that is told of IPv6 leaves skb->csum right for
 * devices that verify checksums; earlier ones refuse the flag.
 */
#define F_IPV6 (1ULL << 7)

INLINE __u32 nat_csum(const struct packet *p)
{
	return p->l4 + (p->proto == IPPROTO_TCP	  ? TCP_CSUM
			: p->proto == IPPROTO_UDP ? UDP_CSUM
						  : ICMP_CSUM);
}

/* nat_addr4 and nat_addr6 write one address into the frame, at off. Only the
 * first fragment has an L4 header; its checksum stands for all.
 */
INLINE int nat_addr4(struct __sk_buff *skb, const struct packet *p, __u32 off,
		     const struct addr *old, const struct addr *new)
{
	__u64 mangled = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__be32 from = addr_v4(old), to = addr_v4(new);
	int err = 0;

	if (!p->continued && p->proto != IPPROTO_ICMP)
		err |= bpf_l4_csum_replace(skb, nat_csum(p), from, to,
					   4 | BPF_F_PSEUDO_HDR | mangled);
	err |= bpf_l3_csum_replace(skb, IP_OFF(check), from, to, 4);
	return err | bpf_skb_store_bytes(skb, off, &to, 4, 0);
}

INLINE int nat_addr6(struct __sk_buff *skb, const struct packet *p, __u32 off,
		     const struct addr *old, const struct addr *new)
{
	__u64 mangled = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__s64 diff = bpf_csum_diff((__be32 *)old->bytes, sizeof(*old),
				   (__be32 *)new->bytes, sizeof(*new), 0);
	int err = 0;

	if (!p->continued) {
		err = bpf_l4_csum_replace(skb, nat_csum(p), 0, diff,
					  BPF_F_PSEUDO_HDR | mangled | F_IPV6);
		if (err == -EINVAL)
			err = bpf_l4_csum_replace(skb, nat_csum(p), 0, diff,
						  BPF_F_PSEUDO_HDR | mangled);
	}
	return err | bpf_skb_store_bytes(skb, off, new, sizeof(*new), 0);
}

/* nat_port_write writes a port or ICMP id into the frame, off bytes into the
 * L4 header.
 */
INLINE int nat_port_write(struct __sk_buff *skb, const struct packet *p,
			  __u32 off, __be16 old, __be16 new)
{
	__u64 mangled = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	int err;

	if (p->continued || old == new)
		return 0;
	err = bpf_l4_csum_replace(skb, nat_csum(p), old, new, 2 | mangled);
	return err | bpf_skb_store_bytes(skb, p->l4 + off, &new, 2, 0);
}

/* nat_rewrite makes the packet what the entry says, in the frame and in *p. */
INLINE int nat_rewrite(struct __sk_buff *skb, struct packet *p,
		       const struct conntrack *ct)
{
	bool icmp = packet_icmp(p);
	int err = 0;

	if (ct->flags & CT_REWRITE_SRC) {
		if (p->v6)
			err |= nat_addr6(skb, p, IP6_OFF(saddr), &p->src,
					 &ct->src);
		else
			err |= nat_addr4(skb, p, IP_OFF(saddr), &p->src,
					 &ct->src);
		err |= nat_port_write(skb, p, icmp ? ICMP_ID : 0, p->sport,
				      ct->sport);
		p->src = ct->src;
		p->sport = ct->sport;
	}
	if (ct->flags & CT_REWRITE_DST) {
		if (p->v6)
			err |= nat_addr6(skb, p, IP6_OFF(daddr), &p->dst,
					 &ct->dst);
		else
			err |= nat_addr4(skb, p, IP_OFF(daddr), &p->dst,
					 &ct->dst);
		err |= nat_port_write(skb, p, icmp ? ICMP_ID : 2, p->dport,
				      ct->dport);
		p->dst = ct->dst;
		p->dport = ct->dport;
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
INLINE int nat_keep(struct conntrack_key *key, struct conntrack *reply,
		     const struct packet *p, const struct translation *t)
{
	int err; /* before 6.4 the upper half of what the map says is not set */

	nat_reply(key, reply, p, t, p->sport);
	err = bpf_map_update_elem(&conntrack, key, reply, BPF_NOEXIST);
	if (err == -EEXIST && nat_replaceable(key, reply))
		err = bpf_map_update_elem(&conntrack, key, reply, BPF_ANY);
	return err;
}

/* nat_again gives a flow that begins anew the port that it had: its entries
 * are still there, so the port is its own.
 */
INLINE bool nat_again(const struct conntrack_key *first,
		      const struct translation *t, __be16 *sport)
{
	struct conntrack *old = bpf_map_lookup_elem(&conntrack, first);

	if (!old || !(old->flags & CT_REWRITE_SRC) ||
	    (old->flags & CT_REPLY_SIDE) || !addr_equal(&old->src, &t->src))
		return false;
	if ((t->flags & CT_REWRITE_DST) &&
	    (old->dport != t->dport || !addr_equal(&old->dst, &t->dst)))
		return false;
	*sport = old->sport;
	return true;
}

/* nat_evict takes the port of a closed flow, whose answering side is at key,
 * by deleting its other side.
 */
INLINE bool nat_evict(const struct conntrack_key *key, const struct packet *p,
		      const struct translation *t)
{
	struct conntrack *old = bpf_map_lookup_elem(&conntrack, key);
	bool dnat = t->flags & CT_REWRITE_DST;
	struct conntrack_key first;

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

/* Among so many draws closed flows are left alone: who was reset may not
 * believe it.
 */
#define NAT_TRIES_FREE (NAT_TRIES / 2)

/* nat_draw reserves a port for a flow whose source is rewritten. Returns what
 * the map said last.
 */
INLINE int nat_draw(const struct conntrack_key *first,
		    struct conntrack_key *key, struct conntrack *reply,
		    const struct packet *p, const struct translation *t,
		    __be16 *sport)
{
	int err = -EEXIST; /* see nat_keep */

	if (nat_again(first, t, sport)) {
		nat_reply(key, reply, p, t, *sport);
		return bpf_map_update_elem(&conntrack, key, reply, BPF_ANY);
	}
	for (int i = 0; i < NAT_TRIES && err == -EEXIST; i++) {
		*sport = nat_port();
		nat_reply(key, reply, p, t, *sport);
		err = bpf_map_update_elem(&conntrack, key, reply, BPF_NOEXIST);
		if (err == -EEXIST && i >= NAT_TRIES_FREE &&
		    nat_evict(key, p, t))
			err = bpf_map_update_elem(&conntrack, key, reply,
						  BPF_ANY);
	}
	return err;
}

/* nat_reserve inserts the answering side: whoever does that owns the port. A
 * flow that cannot keep its source port gets another one. first is the key of
 * the beginning side.
 */
INLINE enum drop_reason nat_reserve(const struct conntrack_key *first,
				    struct conntrack_key *key,
				    struct conntrack *reply,
				    const struct packet *p,
				    struct translation *t, __be16 *sport)
{
	int err = 0; /* see nat_keep */

	if (!(t->flags & CT_REWRITE_SRC)) {
		*sport = p->sport;
		err = nat_keep(key, reply, p, t);
		if (err != -EEXIST)
			return err ? DROP_TABLE_FULL : DROP_NONE;
		t->flags |= CT_REWRITE_SRC;
		t->src = p->src;
	}
	err = nat_draw(first, key, reply, p, t, sport);
	if (err == -EEXIST)
		return DROP_PORTS_EXHAUSTED;
	return err ? DROP_TABLE_FULL : DROP_NONE;
}

/* nat_create makes the two entries of a translated flow; *ct gets the one of
 * the beginning side, by which the packet at hand is to be rewritten. first
 * is its key, from the index of the packet's source in that.
 */
INLINE enum drop_reason nat_create(const struct conntrack_key *first,
				   __u32 from, const struct packet *p,
				   struct translation *t,
				   const struct control *c,
				   struct conntrack *ct)
{
	struct conntrack_key key;
	enum drop_reason reason;
	__be16 sport = 0;

	/* At first it is the answering side's: there is no room for both on
	 * the stack that 5.10 gives programs and what they call.
	 */
	__builtin_memset(ct, 0, sizeof(*ct));
	ct->epoch = c->epoch;
	ct->last_seen = c->generation;
	ct->service = t->service;
	reason = nat_reserve(first, &key, ct, p, t, &sport);
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
	ct->flags = t->flags | conntrack_from_flag(from) |
		    (packet_opens_tcp(p) ? CT_SYN : 0);
	conntrack_devices(ct, from, t->from_ifindex, t->to_ifindex);
	if (!bpf_map_update_elem(&conntrack, first, ct, BPF_ANY))
		return DROP_NONE;
	bpf_map_delete_elem(&conntrack, &key);
	return DROP_TABLE_FULL;
}

#endif
