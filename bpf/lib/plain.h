/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * plain: packets as nearly all are: TCP or UDP, without options, extension
 * headers or fragments. They are read and written where they lie, or in a copy
 * of their headers.
 */
#ifndef SKEP_PLAIN_H
#define SKEP_PLAIN_H

#include "conntrack.h"
#include "packet.h"

struct plain {
	struct addr src, dst;
	__be16 sport, dport;
	__be16 sum;	/* of the TCP or UDP header */
	__u16 length;	/* of the IP packet, host byte order; of IPv6 without
			 * its header, as there
			 */
	__u8 proto;
	__u8 tos;	/* or traffic class */
	__u8 ttl;	/* or hop limit */
	__u8 tcp;	/* enum tcp_flag */
	__u8 header;	/* length of the TCP or UDP header */
	bool v6;
};

/* A sum in one's complement that is not folded to 16 bits yet. Each of at most
 * 2^31 terms has 32 bits.
 */
INLINE __u64 sum_addr(const struct addr *a)
{
	__u64 sum = 0;

	for (int i = 0; i < 4; i++)
		sum += addr_word(a, i);
	return sum;
}

/* sum_addr_off is what sum_addr says of the negative. */
INLINE __u64 sum_addr_off(const struct addr *a)
{
	__u64 sum = 0;

	for (int i = 0; i < 4; i++)
		sum += (__u32)~addr_word(a, i);
	return sum;
}

/* sum_fold gives the 16 bits of a sum. */
INLINE __u16 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* sum_half gives the 32 bits of a sum, as the kernel's helpers take it. */
INLINE __u32 sum_half(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* sum_change gives a checksum after a change by diff (RFC 1624). */
INLINE __be16 sum_change(__be16 check, __u64 diff)
{
	return ~sum_fold((__u16)~check + diff);
}

/* plain_partial tells whether the checksum is one that a device was to finish:
 * so far it is the sum over addresses, length and protocol alone. XDP is given
 * such packets by devices that pass on what a socket of this machine sent, and
 * nobody would finish them after XDP has sent them. One in 65,536 others looks
 * alike; tc, which is told, has them all.
 */
INLINE bool plain_partial(const struct plain *p)
{
	__u16 length = p->length - (p->v6 ? 0 : sizeof(struct iphdr));
	__u64 sum = bpf_htons(p->proto) + bpf_htons(length);
	__u16 pseudo;

	/* The mapped form of IPv4 has 0xffff besides, which is 0. */
	sum += sum_addr(&p->src) + sum_addr(&p->dst);
	pseudo = sum_fold(sum);
	return p->sum == pseudo || (!p->sum && pseudo == 0xffff);
}

INLINE void *plain_l4(void *data, bool v6)
{
	return data + ETH_HLEN +
	       (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

INLINE bool plain_ports(void *l4, void *end, struct plain *p)
{
	const __be16 *word = l4;

	if (p->proto == IPPROTO_UDP) {
		if (l4 + 8 > end)
			return false;
		p->sum = word[UDP_CSUM / 2];
		p->tcp = 0;
		p->header = 8;
	} else if (p->proto == IPPROTO_TCP) {
		if (l4 + 20 > end)
			return false;
		p->sum = word[TCP_CSUM / 2];
		p->tcp = ((const __u8 *)l4)[TCP_FLAGS];
		p->header = (((const __u8 *)l4)[TCP_FLAGS - 1] >> 4) * 4;
	} else {
		return false;
	}
	p->sport = word[0];
	p->dport = word[1];
	return true;
}

INLINE bool plain_v4(void *data, void *end, struct plain *p)
{
	struct iphdr *ip = data + ETH_HLEN;

	/* Without a length it is larger than that can say. */
	if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->version != 4 ||
	    !ip->tot_len ||
	    (ip->frag_off & bpf_htons(IP_FRAGMENT_MASK)))
		return false;
	addr_set_v4(&p->src, ip->saddr);
	addr_set_v4(&p->dst, ip->daddr);
	p->length = bpf_ntohs(ip->tot_len);
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->v6 = false;
	return plain_ports(ip + 1, end, p);
}

INLINE bool plain_v6(void *data, void *end, struct plain *p)
{
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;
	__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
	p->length = bpf_ntohs(ip->payload_len);
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	p->v6 = true;
	return plain_ports(ip + 1, end, p);
}

/* plain_parse reads the headers of a frame. False: it is not a plain packet, or
 * has no hop left.
 */
INLINE bool plain_parse(void *data, void *end, struct plain *p)
{
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		if (!plain_v4(data, end, p))
			return false;
	} else if (eth->h_proto != bpf_htons(ETH_P_IPV6) ||
		   !plain_v6(data, end, p)) {
		return false;
	}
	return p->ttl > 1;
}

/* plain_flow makes the key of the packet's flow and returns the index of its
 * source in it.
 */
INLINE __u32 plain_flow(const struct plain *p, struct conntrack_key *key)
{
	return conntrack_key_of(key, &p->src, p->sport, &p->dst, p->dport,
				p->proto);
}

/* plain_translate makes *p what its entry says, and returns what that adds to
 * the sum over its addresses; what it adds to the sum over its ports goes to
 * *ports, 0: nothing.
 */
INLINE __u64 plain_translate(struct plain *p, const struct conntrack *ct,
			     __u64 *ports)
{
	__u64 diff = 0;

	*ports = 0;
	if (ct->flags & CT_REWRITE_SRC) {
		diff += sum_addr_off(&p->src) + sum_addr(&ct->src);
		if (p->sport != ct->sport)
			*ports += (__u16)~p->sport + (__u64)ct->sport;
		p->src = ct->src;
		p->sport = ct->sport;
	}
	if (ct->flags & CT_REWRITE_DST) {
		diff += sum_addr_off(&p->dst) + sum_addr(&ct->dst);
		if (p->dport != ct->dport)
			*ports += (__u16)~p->dport + (__u64)ct->dport;
		p->dst = ct->dst;
		p->dport = ct->dport;
	}
	return diff;
}

/* plain_write4 and plain_write6 write the IP header. */
INLINE bool plain_write4(void *data, void *end, const struct plain *p,
			 __u64 diff)
{
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;
	diff += (__u16)~bpf_htons(ip->ttl << 8) +
		(__u64)bpf_htons((ip->ttl - 1) << 8);
	ip->ttl--;
	ip->saddr = addr_v4(&p->src);
	ip->daddr = addr_v4(&p->dst);
	ip->check = sum_change(ip->check, diff);
	return true;
}

INLINE bool plain_write6(void *data, void *end, const struct plain *p)
{
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return false;
	ip->hop_limit--;
	__builtin_memcpy(&ip->saddr, &p->src, sizeof(p->src));
	__builtin_memcpy(&ip->daddr, &p->dst, sizeof(p->dst));
	return true;
}

/* plain_write makes the packet in the frame what *p says, one hop further, but
 * for its TCP or UDP checksum. addrs is what plain_translate said of the sum.
 * False: the frame is shorter than it was.
 */
INLINE bool plain_write(void *data, void *end, const struct plain *p,
			__u64 addrs)
{
	__be16 *l4 = plain_l4(data, p->v6);

	if (p->v6 ? !plain_write6(data, end, p)
		  : !plain_write4(data, end, p, addrs))
		return false;
	if ((void *)l4 + 4 > end)
		return false;
	l4[0] = p->sport;
	l4[1] = p->dport;
	return true;
}

/* plain_write_sum writes the TCP or UDP checksum, where no kernel finishes it.
 * diff is what plain_translate said of the sums over addresses and ports.
 */
INLINE bool plain_write_sum(void *data, void *end, const struct plain *p,
			    __u64 diff)
{
	__be16 *l4 = plain_l4(data, p->v6);
	__be16 sum = sum_change(p->sum, diff);

	if (p->proto == IPPROTO_TCP) {
		if ((void *)l4 + 20 > end)
			return false;
		l4[TCP_CSUM / 2] = sum;
		return true;
	}
	if ((void *)l4 + 8 > end)
		return false;
	/* 0 says that there is none. */
	if (p->sum)
		l4[UDP_CSUM / 2] = sum ? sum : 0xffff;
	return true;
}

#endif
