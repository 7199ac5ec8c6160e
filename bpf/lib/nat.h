/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * nat: rewriting packets of translated flows, with their checksums. The helpers
 * that fix the checksums know complete ones and ones that a device is yet to
 * finish.
 */
#ifndef SKEP_NAT_H
#define SKEP_NAT_H

#include "config.h"
#include "conntrack.h"
#include "drop.h"
#include "packet.h"

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

#endif
