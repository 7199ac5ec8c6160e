/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * reject: saying no. The packet itself is turned into the answer and sent
 * back where it came from, so that the client fails at once.
 */
#ifndef SKEP_REJECT_H
#define SKEP_REJECT_H

#include "packet.h"

/* What an ICMP error carries of the refused packet: its IP header and the
 * first eight bytes behind it.
 */
#define QUOTE (sizeof(struct iphdr) + 8)
#define QUOTE6 (sizeof(struct ipv6hdr) + 8)

/* The same of a packet that is too large: up to a TCP checksum, which the
 * kernel does not let go while it is unfinished.
 */
#define QUOTE_LARGE (sizeof(struct iphdr) + 20)
#define QUOTE6_LARGE (sizeof(struct ipv6hdr) + 20)

struct icmp_error {
	struct iphdr ip;
	struct icmp_header icmp;
};

struct icmp6_error {
	struct ipv6hdr ip;
	struct icmp_header icmp;
};

/* reject_swap exchanges the MAC addresses. */
INLINE int reject_swap_mac(struct __sk_buff *skb)
{
	__u8 mac[2 * ETH_ALEN], swapped[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return -1;
	__builtin_memcpy(swapped, mac + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(swapped + ETH_ALEN, mac, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0);
}

/* reject_swap_addr exchanges the IP addresses. No checksum changes by it. */
INLINE int reject_swap_addr(struct __sk_buff *skb, const struct packet *p)
{
	__be32 addrs[2] = {addr_v4(&p->dst), addr_v4(&p->src)};
	int err;

	if (!p->v6)
		return bpf_skb_store_bytes(skb, IP_OFF(saddr), addrs,
					   sizeof(addrs), 0);
	err = bpf_skb_store_bytes(skb, IP6_OFF(saddr), &p->dst, sizeof(p->dst),
				  0);
	return err | bpf_skb_store_bytes(skb, IP6_OFF(daddr), &p->src,
					 sizeof(p->src), 0);
}

/* reject_tcp answers with a reset. Options and data stay, so that the length
 * and with it the checksum's start do not change: swapping addresses and
 * ports leaves the sum as it is, and the rest is added up difference by
 * difference, which is right for unfinished checksums too.
 */
INLINE int reject_tcp(struct __sk_buff *skb, const struct packet *p)
{
	__be16 ports[2] = {p->dport, p->sport};
	__u32 csum = p->l4 + TCP_CSUM;
	__be32 old[2], new[2];
	__u8 doff_flags[2], reset[2];
	__u32 data;
	int err;

	if (bpf_skb_load_bytes(skb, p->l4 + TCP_SEQ, old, sizeof(old)) ||
	    bpf_skb_load_bytes(skb, p->l4 + TCP_FLAGS - 1, doff_flags, 2))
		return -1;
	data = p->length - (p->l4 - ETH_HLEN) - (doff_flags[0] >> 4) * 4;
	reset[0] = doff_flags[0];
	if (p->tcp & TCP_ACK) {
		new[0] = old[1];
		new[1] = 0;
		reset[1] = TCP_RST;
	} else {
		if (p->tcp & (TCP_SYN | TCP_FIN))
			data++;
		new[0] = 0;
		new[1] = bpf_htonl(bpf_ntohl(old[0]) + data);
		reset[1] = TCP_RST | TCP_ACK;
	}
	err = bpf_l4_csum_replace(skb, csum, old[0], new[0], 4);
	err |= bpf_l4_csum_replace(skb, csum, old[1], new[1], 4);
	err |= bpf_l4_csum_replace(skb, csum, *(__be16 *)doff_flags,
				   *(__be16 *)reset, 2);
	err |= bpf_skb_store_bytes(skb, p->l4 + TCP_SEQ, new, sizeof(new), 0);
	err |= bpf_skb_store_bytes(skb, p->l4 + TCP_FLAGS - 1, reset, 2, 0);
	err |= bpf_skb_store_bytes(skb, p->l4, ports, sizeof(ports), 0);
	return err | reject_swap_addr(skb, p);
}

INLINE __be16 checksum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* reject_icmp answers with an ICMP error of that type and code, which quotes so
 * many bytes.
 */
INLINE int reject_icmp(struct __sk_buff *skb, const struct packet *p,
		       enum icmp_type type, __u8 code, __u32 mtu, __u32 size)
{
	__u8 quote[QUOTE_LARGE] = {};
	struct icmp_error e = {
		.ip.version = 4,
		.ip.ihl = 5,
		.ip.tot_len = bpf_htons(sizeof(e) + size),
		.ip.ttl = 64,
		.ip.protocol = IPPROTO_ICMP,
		.ip.saddr = addr_v4(&p->dst),
		.ip.daddr = addr_v4(&p->src),
		.icmp.type = type,
		.icmp.code = code,
		.icmp.rest = bpf_htonl(mtu),
	};
	__u32 sum;

	/* With IP options the quote would not be the header and eight bytes. */
	if (p->l4 != ETH_HLEN + sizeof(struct iphdr) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, quote, size) ||
	    bpf_skb_change_tail(skb, ETH_HLEN + size, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(e), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	e.ip.check = checksum_fold(
		bpf_csum_diff(NULL, 0, (__be32 *)&e.ip, sizeof(e.ip), 0));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&e.icmp, sizeof(e.icmp), 0);
	e.icmp.checksum = checksum_fold(
		bpf_csum_diff(NULL, 0, (__be32 *)quote, size, sum));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &e, sizeof(e), 0);
}

/* reject_icmp6 is the same for IPv6. Its checksum is also over the addresses,
 * the length and the protocol.
 */
INLINE int reject_icmp6(struct __sk_buff *skb, const struct packet *p,
			enum icmp_type type, __u8 code, __u32 mtu, __u32 size)
{
	__u8 quote[QUOTE6_LARGE] = {};
	struct icmp6_error e = {
		.ip.version = 6,
		.ip.payload_len =
			bpf_htons(sizeof(struct icmp_header) + size),
		.ip.nexthdr = IPPROTO_ICMPV6,
		.ip.hop_limit = 64,
		.icmp.type = type,
		.icmp.code = code,
		.icmp.rest = bpf_htonl(mtu),
	};
	__be32 pseudo[2] = {bpf_htonl(sizeof(struct icmp_header) + size),
			    bpf_htonl(IPPROTO_ICMPV6)};
	__u32 sum;

	__builtin_memcpy(&e.ip.saddr, &p->dst, sizeof(p->dst));
	__builtin_memcpy(&e.ip.daddr, &p->src, sizeof(p->src));
	if (p->l4 != ETH_HLEN + sizeof(struct ipv6hdr) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, quote, size) ||
	    bpf_skb_change_tail(skb, ETH_HLEN + size, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(e), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	sum = bpf_csum_diff(NULL, 0, pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&e.ip.saddr, 32, sum);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&e.icmp, sizeof(e.icmp), sum);
	e.icmp.checksum = checksum_fold(
		bpf_csum_diff(NULL, 0, (__be32 *)quote, size, sum));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &e, sizeof(e), 0);
}

/* reject turns the packet into a refusal and sends it back through the device
 * it came from; what cannot be answered is dropped.
 */
INLINE int reject(struct __sk_buff *skb, const struct packet *p)
{
	int err;

	if (p->continued || (p->proto == IPPROTO_TCP && (p->tcp & TCP_RST)))
		return TC_ACT_SHOT;
	if (p->proto == IPPROTO_TCP)
		err = reject_tcp(skb, p);
	else if (p->proto == IPPROTO_UDP && p->v6)
		err = reject_icmp6(skb, p, ICMP6_DEST_UNREACH,
				   ICMP6_PORT_UNREACH, 0, QUOTE6);
	else if (p->proto == IPPROTO_UDP)
		err = reject_icmp(skb, p, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0,
				  QUOTE);
	else
		return TC_ACT_SHOT;
	if (err || reject_swap_mac(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* reject_whole tells whether a packet may not be cut on its way. */
INLINE bool reject_whole(struct __sk_buff *skb, const struct packet *p)
{
	__be16 flags;

	if (p->v6)
		return true;
	return !bpf_skb_load_bytes(skb, IP_OFF(frag_off), &flags,
				   sizeof(flags)) &&
	       (flags & bpf_htons(IP_DONT_FRAGMENT));
}

/* reject_large tells the sender of a packet how large it may be: "packet too
 * big" or "fragmentation needed", from the address that it was sent to. Returns
 * a verdict, or negative if the packet may be cut or cannot be answered here.
 */
INLINE int reject_large(struct __sk_buff *skb, const struct packet *p,
			__u32 mtu)
{
	__u32 l3 = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	int err;

	if (p->fragment || p->l4 != ETH_HLEN + l3 || !reject_whole(skb, p))
		return -1;
	if (p->v6)
		err = reject_icmp6(skb, p, ICMP6_PACKET_TOO_BIG, 0, mtu,
				   QUOTE6_LARGE);
	else
		err = reject_icmp(skb, p, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED,
				  mtu, QUOTE_LARGE);
	if (err || reject_swap_mac(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/* reject_expired tells the sender of a packet that it has no hop left, from the
 * address that it was sent to. Returns a verdict. No error is about an error, and
 * none is told twice about the fragments of one packet.
 */
INLINE int reject_expired(struct __sk_buff *skb, const struct packet *p)
{
	int err;

	if (p->continued || p->quote)
		return TC_ACT_SHOT;
	if (p->v6)
		err = reject_icmp6(skb, p, ICMP6_TIME_EXCEEDED, 0, 0, QUOTE6);
	else
		err = reject_icmp(skb, p, ICMP_TIME_EXCEEDED, 0, 0, QUOTE);
	if (err || reject_swap_mac(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
