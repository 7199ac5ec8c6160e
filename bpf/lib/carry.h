/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * carry: what tc does with packets that need no decision (see transit.h), before
 * anything else: it writes them where they lie, where the rest of the programs
 * has the kernel write field by field.
 */
#ifndef SKEP_CARRY_H
#define SKEP_CARRY_H

#include "flow.h"
#include "transit.h"

/* What carry says of packets that it does not send; others get a verdict. */
#define CARRY_OTHER -1	 /* nothing is known of it */
#define CARRY_UNKNOWN -2 /* it is plain, its flow is not in the table, and
			  * f->key and f->from are filled in
			  */
#define CARRY_FAILED -3	 /* the kernel refused to rewrite it */

/* carry_sums brings the TCP or UDP checksum up to date. The kernel knows whether
 * a device is yet to finish it.
 */
INLINE long carry_sums(struct __sk_buff *skb, const struct plain *p,
		       __u64 addrs, __u64 ports)
{
	__u64 mangled = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 off = ETH_HLEN +
		    (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) +
		    (p->proto == IPPROTO_TCP ? TCP_CSUM : UDP_CSUM);
	__u64 flags = BPF_F_PSEUDO_HDR | mangled;
	long err;

	addrs = sum_half(addrs);
	err = bpf_l4_csum_replace(skb, off, 0, addrs,
				  p->v6 ? flags | F_IPV6 : flags);
	if (err == -EINVAL && p->v6)
		err = bpf_l4_csum_replace(skb, off, 0, addrs, flags);
	if (ports)
		err |= bpf_l4_csum_replace(skb, off, 0, sum_half(ports),
					   mangled);
	return err;
}

/* carry_told tells the kernel, which may know the sum of all that follows the
 * frame's header, what became of that: by addrs, which the checksums made up for
 * by as much less, and by the hop limit, which no checksum of IPv6 is over.
 */
INLINE void carry_told(struct __sk_buff *skb, const struct plain *p,
		       __u64 addrs)
{
	__u64 diff = ~sum_half(addrs);

	if (p->v6)
		diff = (__u16)~bpf_htons(p->ttl) + (__u64)bpf_htons(p->ttl - 1);
	bpf_csum_update(skb, diff);
}

/* carry_write makes the packet what *p says, one hop further. h: its next hop,
 * NULL: it goes to a pod of this node. addrs and ports are what plain_translate
 * said. unfinished: the TCP or UDP checksum may be one that a device is to finish.
 */
INLINE long carry_write(struct __sk_buff *skb, const struct plain *p,
			const struct hop *h, __u64 addrs, __u64 ports,
			bool unfinished)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	bool sums = addrs | ports;

	if (!plain_write(data, end, p, addrs) ||
	    (h && !hop_write(data, end, h)))
		return -EINVAL;
	if (sums && unfinished)
		return carry_sums(skb, p, addrs, ports);
	if (sums && !plain_write_sum(data, end, p, addrs + ports))
		return -EINVAL;
	if (sums || p->v6)
		carry_told(skb, p, addrs);
	return 0;
}

/* carry_local gives the device of the pod that packets from the end at index
 * from are for; 0: none of this node's.
 */
INLINE __u32 carry_local(const struct conntrack *ct, __u32 from)
{
	return conntrack_applies(ct, from) && !(ct->flags & CT_DIRECT)
		       ? ct->ifindex[!from]
		       : 0;
}

/* carry_length makes the length of a packet that is yet to be cut that of its
 * segments.
 */
INLINE void carry_length(const struct __sk_buff *skb, struct plain *p)
{
	__u32 length = skb->gso_size;

	if (!length)
		return;
	length += p->header + (p->v6 ? 0 : sizeof(struct iphdr));
	p->length = length > 0xffff ? 0xffff : length;
}

/* carry_watched tells whether the packet, which says nothing new of its flow,
 * makes an event: see flow_watched, which decides alike.
 */
INLINE bool carry_watched(struct flow *f)
{
	const struct watch *w = watch_get();

	if (!w || !w->every)
		return false;
	if (f->unwatched + 1 >= w->every)
		return true;
	f->unwatched++;
	return false;
}

/* carry sends a packet of a known flow that came by a device of the node. */
SEPARATE int carry(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	const struct control *c = control_get();
	struct flow *f = flow_get();
	__u64 addrs, ports;
	struct conntrack *ct;
	struct hop *h = NULL;
	bool unfinished;
	struct plain *p;
	__u32 to;

	if (!c || !f)
		return CARRY_OTHER;
	p = &f->plain;
	if (!plain_parse(data, end, p) || pods_contain(&p->src))
		return CARRY_OTHER;
	f->from = plain_flow(p, &f->key);
	ct = bpf_map_lookup_elem(&conntrack, &f->key);
	if (!ct)
		return CARRY_UNKNOWN;
	if (ct->epoch != c->epoch || transit_news(p, ct, f->from) ||
	    carry_watched(f))
		return CARRY_OTHER;
	to = carry_local(ct, f->from);
	if (!to && !transit_away(ct, f->from))
		return CARRY_OTHER;
	/* Who cuts packets finishes them. */
	unfinished = skb->gso_size || plain_partial(p);
	addrs = plain_translate(p, ct, &ports);
	if (!to) {
		transit_way(ct, p, &f->way);
		f->way.tos |= HOP_TC;
		f->way.ifindex = skb->ifindex;
		carry_length(skb, p);
		h = hop_find(skb, &f->way, p);
		if (!h)
			return CARRY_OTHER;
	}
	transit_seen(ct, c, skb->len);
	if (carry_write(skb, p, h, addrs, ports, unfinished))
		return CARRY_FAILED;
	if (to)
		return bpf_redirect_peer(to, 0);
	skb->tc_index = ROUTE_DONE;
	return bpf_redirect(h->ifindex, 0);
}

#endif
