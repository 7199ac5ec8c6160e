/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * packet: what the programs need to know of a frame, read once. Ports and
 * addresses are in network byte order, as in the frame. IP options are
 * skipped.
 */
#ifndef SKEP_PACKET_H
#define SKEP_PACKET_H

#include <linux/ip.h>

#include "addr.h"

#define IP_FRAGMENT_MASK 0x3fff /* more-fragments flag and offset */
#define IP_FRAGMENT_OFFSET 0x1fff

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* linux/icmp.h needs the C library's headers for the target. */
enum icmp_type {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
};

enum icmp_unreach_code {
	ICMP_PORT_UNREACH = 3,
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

/* Offsets in the L4 header. */
#define TCP_SEQ 4
#define TCP_ACK_SEQ 8
#define TCP_FLAGS 13
#define TCP_CSUM 16
#define UDP_CSUM 6
#define ICMP_CSUM 2
#define ICMP_ID 4

#define IP_OFF(field) (ETH_HLEN + offsetof(struct iphdr, field))

enum kind {
	KIND_IPV4,
	KIND_ARP,
	KIND_OTHER, /* not IPv4, not ARP */
	KIND_BAD,   /* shorter than its headers claim */
};

struct packet {
	struct addr src, dst;
	__be16 sport, dport; /* ICMP echo: the requester's is the id */
	__u16 l4;	     /* offset of the L4 header in the frame */
	__u16 length;	     /* IP total length, host byte order */
	__u16 quote;	     /* ICMP errors: offset of the IP header that they
			      * quote; others: 0
			      */
	__u8 proto;
	__u8 ttl;
	__u8 tos;
	__u8 tcp;	/* enum tcp_flag */
	bool fragment;	/* also the first one */
	bool has_ports; /* it belongs to a flow; never for fragments */
};

INLINE bool packet_opens_tcp(const struct packet *p)
{
	return p->proto == IPPROTO_TCP &&
	       (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* parse_l4 reads ports, ICMP echo ids and TCP flags. */
INLINE enum kind parse_l4(void *l4, void *end, struct packet *p)
{
	__be16 *port = l4;
	__u8 *byte = l4;

	if (l4 + 8 > end)
		return KIND_BAD;
	if (p->proto == IPPROTO_UDP || p->proto == IPPROTO_TCP) {
		p->sport = port[0];
		p->dport = port[1];
		p->has_ports = true;
	} else if (byte[0] == ICMP_ECHO) {
		p->sport = port[2];
		p->has_ports = true;
	} else if (byte[0] == ICMP_ECHOREPLY) {
		p->dport = port[2];
		p->has_ports = true;
	} else if (byte[0] == ICMP_DEST_UNREACH ||
		   byte[0] == ICMP_TIME_EXCEEDED ||
		   byte[0] == ICMP_PARAMETERPROB) {
		p->quote = p->l4 + sizeof(struct icmp_header);
	}
	if (p->proto != IPPROTO_TCP)
		return KIND_IPV4;
	if (l4 + 20 > end)
		return KIND_BAD;
	p->tcp = byte[TCP_FLAGS];
	return KIND_IPV4;
}

INLINE enum kind parse_frame(void *data, void *end, struct packet *p)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;

	if (data + ETH_HLEN > end)
		return KIND_BAD;
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return KIND_ARP;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return KIND_OTHER;
	if ((void *)(ip + 1) > end || ip->ihl < 5)
		return KIND_BAD;
	addr_set_v4(&p->src, ip->saddr);
	addr_set_v4(&p->dst, ip->daddr);
	p->l4 = ETH_HLEN + ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->fragment = ip->frag_off & bpf_htons(IP_FRAGMENT_MASK);
	if (p->fragment)
		return KIND_IPV4;
	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP &&
	    p->proto != IPPROTO_ICMP)
		return KIND_IPV4;
	return parse_l4((void *)ip + ip->ihl * 4, end, p);
}

/* The longest headers that are read: Ethernet, IP with options, TCP. */
#define HEADERS_MAX (ETH_HLEN + 60 + 20)

/* parse reads the frame's headers into *p, which is zero before. Headers
 * that lie beyond the linear part of the buffer are pulled into it.
 */
INLINE enum kind parse(struct __sk_buff *skb, struct packet *p)
{
	enum kind kind = parse_frame((void *)(long)skb->data,
				     (void *)(long)skb->data_end, p);
	__u32 length = skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX;

	if (kind != KIND_BAD || bpf_skb_pull_data(skb, length))
		return kind;
	return parse_frame((void *)(long)skb->data,
			   (void *)(long)skb->data_end, p);
}

#endif
