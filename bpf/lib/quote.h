/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * quote: ICMP errors: unreachable, too large, expired. An error quotes the
 * packet that it is about. It belongs to the flow of that packet and goes in
 * the other direction, so what an answer is rewritten by rewrites the error
 * too, mirrored in the quote. Path MTU discovery and traceroute rest on it.
 */
#ifndef SKEP_QUOTE_H
#define SKEP_QUOTE_H

#include "flow.h"

#define QUOTE_OFF(f, field)                                                    \
	((f)->packet.quote + offsetof(struct iphdr, field))

/* quote_ports reads the quoted ports or ICMP id, as an answer has them. */
INLINE void quote_ports(const __be16 *l4, struct packet *q)
{
	__u8 type = ((const __u8 *)l4)[0];

	if (q->proto != IPPROTO_ICMP) {
		q->sport = l4[1];
		q->dport = l4[0];
	} else if (type == ICMP_ECHO) {
		q->dport = l4[2];
	} else {
		q->sport = l4[2];
	}
}

/* quote_find makes f->quoted the answer to the packet that the error in f
 * quotes and finds the entry that rewrites it. NULL: the flow is unknown or
 * not translated on this side.
 */
INLINE struct conntrack *quote_find(struct __sk_buff *skb, struct flow *f)
{
	struct packet *p = &f->packet, *q = &f->quoted;
	struct conntrack *ct;
	struct iphdr ip;
	__be16 l4[4];

	if (bpf_skb_load_bytes(skb, p->quote, &ip, sizeof(ip)) || ip.ihl < 5)
		return NULL;
	q->proto = ip.protocol;
	q->l4 = p->quote + ip.ihl * 4;
	if ((ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET)) ||
	    bpf_skb_load_bytes(skb, q->l4, l4, sizeof(l4)))
		return NULL;
	addr_set_v4(&q->src, ip.daddr);
	addr_set_v4(&q->dst, ip.saddr);
	if (!addr_equal(&q->dst, &p->dst))
		return NULL;
	quote_ports(l4, q);
	f->from = conntrack_key_of(&f->key, &q->src, q->sport, &q->dst,
				   q->dport, q->proto);
	ct = bpf_map_lookup_elem(&conntrack, &f->key);
	if (!ct || !conntrack_translated(ct) || !conntrack_applies(ct, f->from))
		return NULL;
	return ct;
}

/* quote_end writes one address and port into the quote. The sums of the
 * quoted IP header and of the ICMP message stay right, and the address needs
 * no change of the latter: the header's own sum has made up for it. The
 * quoted TCP or UDP sum is nobody's to check, and stays.
 */
INLINE int quote_end(struct __sk_buff *skb, const struct flow *f,
		     __u32 addr_off, __be32 old_addr, __be32 addr,
		     __u32 port_off, __be16 old_port, __be16 port)
{
	__u32 csum = f->packet.l4 + ICMP_CSUM;
	int err;

	err = bpf_l3_csum_replace(skb, QUOTE_OFF(f, check), old_addr, addr, 4);
	err |= bpf_skb_store_bytes(skb, addr_off, &addr, 4, 0);
	err |= bpf_l4_csum_replace(skb, csum, old_port, port, 2);
	return err | bpf_skb_store_bytes(skb, port_off, &port, 2, 0);
}

/* quote_outer writes one address of the error itself. */
INLINE int quote_outer(struct __sk_buff *skb, __u32 off, struct addr *old,
		       const struct addr *new)
{
	__be32 to = addr_v4(new);
	int err;

	err = bpf_l3_csum_replace(skb, IP_OFF(check), addr_v4(old), to, 4);
	*old = *new;
	return err | bpf_skb_store_bytes(skb, off, &to, 4, 0);
}

/* quote_rewrite makes the error what the entry says of answers, in the frame
 * and in f->packet. Routers on the way keep their own address as its source.
 */
INLINE int quote_rewrite(struct __sk_buff *skb, struct flow *f,
			 const struct conntrack *ct)
{
	struct packet *p = &f->packet, *q = &f->quoted;
	bool icmp = q->proto == IPPROTO_ICMP;
	struct addr src = ct->src, dst = ct->dst;
	__be16 sport = ct->sport, dport = ct->dport;
	__u32 flags = ct->flags;
	int err = 0;

	if (flags & CT_REWRITE_SRC) {
		err |= quote_end(skb, f, QUOTE_OFF(f, daddr), addr_v4(&q->src),
				 addr_v4(&src), q->l4 + (icmp ? ICMP_ID : 2),
				 q->sport, sport);
		if (addr_equal(&p->src, &q->src))
			err |= quote_outer(skb, IP_OFF(saddr), &p->src, &src);
	}
	if (flags & CT_REWRITE_DST) {
		err |= quote_end(skb, f, QUOTE_OFF(f, saddr), addr_v4(&q->dst),
				 addr_v4(&dst), q->l4 + (icmp ? ICMP_ID : 0),
				 q->dport, dport);
		err |= quote_outer(skb, IP_OFF(daddr), &p->dst, &dst);
	}
	return err;
}

/* quote_pass rewrites an error that the host's stack carries. False: the
 * kernel refused.
 */
INLINE bool quote_pass(struct __sk_buff *skb, struct flow *f)
{
	struct conntrack *ct = quote_find(skb, f);

	return !ct || !quote_rewrite(skb, f, ct);
}

#endif
