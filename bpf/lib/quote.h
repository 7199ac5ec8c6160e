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
#define QUOTE6_OFF(f, field)                                                   \
	((f)->packet.quote + offsetof(struct ipv6hdr, field))

/* quote_ports reads the quoted ports or ICMP id, as an answer has them. */
INLINE void quote_ports(const __be16 *l4, struct packet *q)
{
	__u8 type = ((const __u8 *)l4)[0];

	if (!packet_icmp(q)) {
		q->sport = l4[1];
		q->dport = l4[0];
	} else if (type == (q->v6 ? ICMP6_ECHO : ICMP_ECHO)) {
		q->dport = l4[2];
	} else {
		q->sport = l4[2];
	}
}

/* quote_header reads the quoted IP header as an answer's. False: it is cut
 * short, or that of a fragment but the first.
 */
INLINE bool quote_header4(struct __sk_buff *skb, const struct packet *p,
			  struct packet *q)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, p->quote, &ip, sizeof(ip)) || ip.ihl < 5)
		return false;
	q->proto = ip.protocol;
	q->l4 = p->quote + ip.ihl * 4;
	addr_set_v4(&q->src, ip.daddr);
	addr_set_v4(&q->dst, ip.saddr);
	return !(ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET));
}

INLINE bool quote_header6(struct __sk_buff *skb, const struct packet *p,
			  struct packet *q)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, p->quote, &ip, sizeof(ip)))
		return false;
	q->v6 = true;
	q->proto = ip.nexthdr;
	q->l4 = p->quote + sizeof(ip);
	__builtin_memcpy(&q->src, &ip.daddr, sizeof(q->src));
	__builtin_memcpy(&q->dst, &ip.saddr, sizeof(q->dst));
	for (int i = 0; i < EXTENSIONS; i++)
		if (!extension(skb, q))
			break;
	return !q->continued;
}

/* quote_find makes f->quoted the answer to the packet that the error in f
 * quotes, and f->entry what rewrites it. False: the flow is unknown or not
 * translated on this side.
 */
SEPARATE int quote_find(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct conntrack *ct;
	struct packet *p, *q;
	__be16 l4[4];

	if (!f)
		return false;
	p = &f->packet;
	q = &f->quoted;
	f->key.proto = 0; /* of no flow: see quote_known */
	if (!(p->v6 ? quote_header6(skb, p, q) : quote_header4(skb, p, q)) ||
	    bpf_skb_load_bytes(skb, q->l4, l4, sizeof(l4)))
		return false;
	if (!addr_equal(&q->dst, &p->dst))
		return false;
	quote_ports(l4, q);
	f->from = conntrack_key_of(&f->key, &q->src, q->sport, &q->dst,
				   q->dport, q->proto);
	ct = bpf_map_lookup_elem(&conntrack, &f->key);
	if (!ct || !conntrack_translated(ct) || !conntrack_applies(ct, f->from))
		return false;
	f->entry = *ct;
	return true;
}

/* quote_known tells whether the error in f is about a flow in the table: to be
 * asked after quote_find, which makes the key.
 */
INLINE bool quote_known(struct flow *f)
{
	return f->packet.quote && bpf_map_lookup_elem(&conntrack, &f->key);
}

/* quote_port writes a port into the quote, off bytes into its L4 header. The
 * quoted TCP or UDP sum is nobody's to check, and stays.
 */
INLINE int quote_port(struct __sk_buff *skb, const struct flow *f, __u32 off,
		      __be16 old, __be16 new)
{
	int err;

	err = bpf_l4_csum_replace(skb, f->packet.l4 + ICMP_CSUM, old, new, 2);
	return err |
	       bpf_skb_store_bytes(skb, f->quoted.l4 + off, &new, 2, 0);
}

/* quote_addr4 writes one address into the quote, at off. The sums of the
 * quoted IP header and of the ICMP message stay right, and the address needs
 * no change of the latter: the header's own sum has made up for it.
 */
INLINE int quote_addr4(struct __sk_buff *skb, const struct flow *f, __u32 off,
		       const struct addr *old, const struct addr *new)
{
	__be32 from = addr_v4(old), to = addr_v4(new);
	int err;

	err = bpf_l3_csum_replace(skb, QUOTE_OFF(f, check), from, to, 4);
	return err | bpf_skb_store_bytes(skb, off, &to, 4, 0);
}

/* quote_addr6 does so for IPv6, where the ICMP sum is over the addresses of
 * the quote and over those of the error itself alike.
 */
INLINE int quote_addr6(struct __sk_buff *skb, const struct flow *f, __u32 off,
		       const struct addr *old, const struct addr *new)
{
	__s64 diff = bpf_csum_diff((__be32 *)old->bytes, sizeof(*old),
				   (__be32 *)new->bytes, sizeof(*new), 0);
	int err;

	err = bpf_l4_csum_replace(skb, f->packet.l4 + ICMP_CSUM, 0, diff, 0);
	return err | bpf_skb_store_bytes(skb, off, new, sizeof(*new), 0);
}

/* quote_source writes what the entry says of the source of answers: into the
 * quote, and into the error if it comes from there. Routers on the way keep
 * their own address.
 */
INLINE int quote_source(struct __sk_buff *skb, struct flow *f)
{
	struct packet *p = &f->packet, *q = &f->quoted;
	const struct addr *src = &f->entry.src;
	bool own = addr_equal(&p->src, &q->src);
	int err;

	err = quote_port(skb, f, packet_icmp(q) ? ICMP_ID : 2, q->sport,
			 f->entry.sport);
	if (p->v6) {
		err |= quote_addr6(skb, f, QUOTE6_OFF(f, daddr), &q->src, src);
		if (own)
			err |= nat_addr6(skb, p, IP6_OFF(saddr), &p->src, src);
	} else {
		err |= quote_addr4(skb, f, QUOTE_OFF(f, daddr), &q->src, src);
		if (own)
			err |= nat_addr4(skb, p, IP_OFF(saddr), &p->src, src);
	}
	if (own)
		p->src = *src;
	return err;
}

/* quote_destination does so for the destination of answers, which is also
 * the error's.
 */
INLINE int quote_destination(struct __sk_buff *skb, struct flow *f)
{
	struct packet *p = &f->packet, *q = &f->quoted;
	const struct addr *dst = &f->entry.dst;
	int err;

	err = quote_port(skb, f, packet_icmp(q) ? ICMP_ID : 0, q->dport,
			 f->entry.dport);
	if (p->v6) {
		err |= quote_addr6(skb, f, QUOTE6_OFF(f, saddr), &q->dst, dst);
		err |= nat_addr6(skb, p, IP6_OFF(daddr), &p->dst, dst);
	} else {
		err |= quote_addr4(skb, f, QUOTE_OFF(f, saddr), &q->dst, dst);
		err |= nat_addr4(skb, p, IP_OFF(daddr), &p->dst, dst);
	}
	p->dst = *dst;
	return err;
}

/* quote_rewrite makes the error what f->entry says of answers, in the frame
 * and in f->packet. Returns 0, or not 0 if the kernel refused.
 */
SEPARATE int quote_rewrite(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	int err = 0;

	if (!f)
		return -1;
	if (f->entry.flags & CT_REWRITE_SRC)
		err |= quote_source(skb, f);
	if (f->entry.flags & CT_REWRITE_DST)
		err |= quote_destination(skb, f);
	return err;
}

/* quote_pass rewrites an error that the host's stack carries. False: the
 * kernel refused.
 */
INLINE bool quote_pass(struct __sk_buff *skb)
{
	return !quote_find(skb) || !quote_rewrite(skb);
}

#endif
