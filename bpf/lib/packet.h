/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * packet: what the programs need to know of a frame, read once. Ports and
 * addresses are in network byte order, as in the frame. IP options and IPv6
 * extension headers are skipped.
 */
#ifndef SKEP_PACKET_H
#define SKEP_PACKET_H

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "addr.h"

#define IP_DONT_FRAGMENT 0x4000
#define IP_FRAGMENT_MASK 0x3fff /* more-fragments flag and offset */
#define IP_FRAGMENT_OFFSET 0x1fff
#define IP6_FRAGMENT_OFFSET 0xfff8

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* linux/icmp.h and linux/icmpv6.h need the C library's headers for the
 * target.
 */
enum icmp_type {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,

	ICMP6_DEST_UNREACH = 1,
	ICMP6_PACKET_TOO_BIG = 2,
	ICMP6_TIME_EXCEEDED = 3,
	ICMP6_PARAMETERPROB = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHOREPLY = 129,
	ICMP6_MLD_QUERY = 130,
	ICMP6_NEIGHBOUR_ADVERTISEMENT = 136,
	ICMP6_MLD2_REPORT = 143,
};

enum icmp_unreach_code {
	ICMP_PORT_UNREACH = 3,
	ICMP_FRAG_NEEDED = 4,
	ICMP6_PORT_UNREACH = 4,
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
#define IP6_OFF(field) (ETH_HLEN + offsetof(struct ipv6hdr, field))

/* As many extension headers are skipped. */
#define EXTENSIONS 4

enum kind {
	KIND_IP,	/* IPv4 or IPv6 */
	KIND_ARP,
	KIND_NEIGHBOUR, /* IPv6 that never leaves the link: neighbour
			 * discovery, group membership
			 */
	KIND_OTHER,	/* none of these */
	KIND_BAD,	/* shorter than its headers claim */
};

struct packet {
	struct addr src, dst;
	__be16 sport, dport; /* ICMP echo: the requester's is the id */
	__u16 l4;	     /* offset of the L4 header in the frame */
	__u16 length;	     /* of the IP packet, host byte order */
	__u16 quote;	     /* ICMP errors: offset of the IP header that they
			      * quote; others: 0
			      */
	__u8 proto;	     /* of the L4 header */
	__u8 ttl;	     /* or hop limit */
	__u8 tos;	     /* or traffic class */
	__u8 tcp;	     /* enum tcp_flag */
	__u8 header;	     /* length of the TCP or UDP header */
	bool v6;
	bool fragment;	/* also the first one */
	bool continued; /* a fragment but the first: there is no L4 header */
	bool has_ports; /* it belongs to a flow */
	__be32 id;	/* fragments: what they have in common */
};

/* A fragment but the first has no ports: they are its first one's. */
struct fragment_key {
	struct addr src, dst;
	__be32 id;
	__u8 proto;
	__u8 pad[3]; /* 0 */
};

struct fragment {
	__be16 sport, dport;
	__u32 rounds; /* 0: the ports are known; else how often fragments that
		       * were early have gone round: see early.h
		       */
};

/* An LRU, for nobody says which fragment is the last to come. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 4096);
} fragment SEC(".maps");

INLINE bool packet_opens_tcp(const struct packet *p)
{
	return p->proto == IPPROTO_TCP &&
	       (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

INLINE bool packet_icmp(const struct packet *p)
{
	return p->proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* parse_icmp reads echo ids and finds what errors quote. */
INLINE enum kind parse_icmp(const __u8 *l4, struct packet *p)
{
	const __be16 *word = (const __be16 *)l4;
	__u8 type = l4[0];

	if (type == (p->v6 ? ICMP6_ECHO : ICMP_ECHO)) {
		p->sport = word[2];
		p->has_ports = true;
	} else if (type == (p->v6 ? ICMP6_ECHOREPLY : ICMP_ECHOREPLY)) {
		p->dport = word[2];
		p->has_ports = true;
	} else if (p->v6 ? type >= ICMP6_DEST_UNREACH &&
				   type <= ICMP6_PARAMETERPROB
			 : type == ICMP_DEST_UNREACH ||
				   type == ICMP_TIME_EXCEEDED ||
				   type == ICMP_PARAMETERPROB) {
		p->quote = p->l4 + sizeof(struct icmp_header);
	} else if (p->v6 && ((type >= ICMP6_MLD_QUERY &&
			      type <= ICMP6_NEIGHBOUR_ADVERTISEMENT) ||
			     type == ICMP6_MLD2_REPORT)) {
		return KIND_NEIGHBOUR;
	}
	return KIND_IP;
}

/* parse_l4 reads ports, ICMP echo ids and TCP flags. */
INLINE enum kind parse_l4(void *l4, void *end, struct packet *p)
{
	const __be16 *port = l4;

	if (l4 + 8 > end)
		return KIND_BAD;
	if (packet_icmp(p))
		return parse_icmp(l4, p);
	if (p->proto != IPPROTO_UDP && p->proto != IPPROTO_TCP)
		return KIND_IP;
	p->sport = port[0];
	p->dport = port[1];
	p->has_ports = true;
	p->header = 8;
	if (p->proto != IPPROTO_TCP)
		return KIND_IP;
	if (l4 + 20 > end)
		return KIND_BAD;
	p->tcp = ((const __u8 *)l4)[TCP_FLAGS];
	p->header = (((const __u8 *)l4)[TCP_FLAGS - 1] >> 4) * 4;
	return KIND_IP;
}

INLINE enum kind parse_v4(void *data, void *end, struct packet *p)
{
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end || ip->ihl < 5)
		return KIND_BAD;
	addr_set_v4(&p->src, ip->saddr);
	addr_set_v4(&p->dst, ip->daddr);
	p->l4 = ETH_HLEN + ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	p->proto = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->id = ip->id;
	p->fragment = ip->frag_off & bpf_htons(IP_FRAGMENT_MASK);
	p->continued = ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET);
	return KIND_IP;
}

/* extension skips one extension header; false: there is none. */
INLINE bool extension(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__u8 next;
		__u8 length; /* in 8 bytes, without the first 8 */
		__be16 offset; /* fragment header: offset and flags */
		__be32 id;     /* fragment header */
	} h;

	if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING &&
	    p->proto != IPPROTO_DSTOPTS && p->proto != IPPROTO_FRAGMENT)
		return false;
	if (bpf_skb_load_bytes(skb, p->l4, &h, sizeof(h)))
		return false;
	if (p->proto == IPPROTO_FRAGMENT) {
		p->fragment = true;
		p->continued = h.offset & bpf_htons(IP6_FRAGMENT_OFFSET);
		p->id = h.id;
		h.length = 0;
	}
	p->proto = h.next;
	p->l4 += 8 + h.length * 8;
	return !p->continued;
}

INLINE enum kind parse_v6(struct __sk_buff *skb, void *data, void *end,
			  struct packet *p)
{
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return KIND_BAD;
	__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
	p->v6 = true;
	p->l4 = ETH_HLEN + sizeof(*ip);
	p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	p->proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	for (int i = 0; i < EXTENSIONS; i++)
		if (!extension(skb, p))
			break;
	return KIND_IP;
}

INLINE void fragment_key_of(struct fragment_key *key, const struct packet *p)
{
	key->src = p->src;
	key->dst = p->dst;
	key->id = p->id;
	key->proto = p->proto;
	__builtin_memset(key->pad, 0, sizeof(key->pad));
}

/* parse_fragment gives a fragment the ports of its first one. */
INLINE void parse_fragment(struct packet *p)
{
	struct fragment ports = {p->sport, p->dport, 0}, *first;
	struct fragment_key key;

	fragment_key_of(&key, p);
	if (!p->continued) {
		if (p->has_ports)
			bpf_map_update_elem(&fragment, &key, &ports, BPF_ANY);
		return;
	}
	first = bpf_map_lookup_elem(&fragment, &key);
	if (!first || first->rounds)
		return;
	p->sport = first->sport;
	p->dport = first->dport;
	p->has_ports = true;
}

/* The offset of an L4 header is below this. */
#define L4_MAX 512

INLINE enum kind parse_frame(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	enum kind kind;
	__u64 l4;

	if (data + ETH_HLEN > end)
		return KIND_BAD;
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return KIND_ARP;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		kind = parse_v4(data, end, p);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		kind = parse_v6(skb, data, end, p);
	else
		return KIND_OTHER;
	if (kind != KIND_IP)
		return kind;
	l4 = p->l4;
	/* One register, for the verifier to see that what is checked is used. */
	asm volatile("" : "+r"(l4));
	if (l4 >= L4_MAX)
		return KIND_BAD;
	data += l4;
	if (!p->continued)
		kind = parse_l4(data, end, p);
	if (p->fragment && kind == KIND_IP)
		parse_fragment(p);
	return kind;
}

/* The longest headers that are read without extension headers. */
#define HEADERS_MAX (ETH_HLEN + 60 + 20)

/* parse reads the frame's headers into *p, which is zero before. Headers
 * that lie beyond the linear part of the buffer are pulled into it.
 */
INLINE enum kind parse(struct __sk_buff *skb, struct packet *p)
{
	enum kind kind = parse_frame(skb, p);
	__u32 length = p->v6 ? L4_MAX : HEADERS_MAX;

	if (skb->len < length)
		length = skb->len;
	if (kind != KIND_BAD || bpf_skb_pull_data(skb, length))
		return kind;
	__builtin_memset(p, 0, sizeof(*p));
	return parse_frame(skb, p);
}

#endif
