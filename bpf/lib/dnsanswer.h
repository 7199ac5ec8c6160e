/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * dnsanswer: answers to look-ups of cluster names, in place of the node's server
 * and with its very bytes. What is not understood, or not known for certain, is
 * left to the server.
 */
#ifndef SKEP_DNSANSWER_H
#define SKEP_DNSANSWER_H

#include "dns.h"

/* record: what stands before a record's data. Of 16-bit words, for it may begin
 * at any byte.
 */
struct dns_record {
	__be16 owner, type, class, ttl_high, ttl, size;
};

INLINE void dns_record(struct dns_record *r, __u16 owner, __u16 type,
		       __u32 ttl, __u16 size)
{
	r->owner = bpf_htons(owner);
	r->type = bpf_htons(type);
	r->class = bpf_htons(1);
	r->ttl_high = bpf_htons(ttl >> 16);
	r->ttl = bpf_htons(ttl);
	r->size = bpf_htons(size);
}

/* dns_next is the place behind one of n, the first behind the last, without a
 * branch: each would be followed for all places.
 */
INLINE __u64 dns_next(__u64 at, __u64 n)
{
	at++;
	return at & -above(n, at);
}

/* dns_addresses4 and dns_addresses6 add n addresses of the row, beginning with
 * one of them.
 */
INLINE void dns_addresses4(struct dns *d, const struct dns_name *row,
			   __u32 ttl, __u32 n, __u64 at)
{
	__u8 *to = d->message + within(d->end, 512);

	for (__u32 i = 0; i < DNS_ADDRESSES; i++) {
		if (i >= n)
			break;
		dns_record((struct dns_record *)to, DNS_OWNER, DNS_A, ttl, 4);
		to += sizeof(struct dns_record);
		*(__be32 *)to = row->v4[within(at, DNS_ADDRESSES)];
		to += 4;
		at = dns_next(at, n);
	}
}

INLINE void dns_addresses6(struct dns *d, const struct dns_name *row,
			   __u32 ttl, __u32 n, __u64 at)
{
	__u8 *to = d->message + within(d->end, 512);

	for (__u32 i = 0; i < DNS_ADDRESSES; i++) {
		const __be32 *a = row->v6[within(at, DNS_ADDRESSES)];
		__be32 *data;

		if (i >= n)
			break;
		dns_record((struct dns_record *)to, DNS_OWNER, DNS_AAAA, ttl,
			   16);
		to += sizeof(struct dns_record);
		data = (__be32 *)to;
		data[0] = a[0];
		data[1] = a[1];
		data[2] = a[2];
		data[3] = a[3];
		to += 16;
		at = dns_next(at, n);
	}
}

/* dns_addresses adds the row's addresses of the question's type, beginning with
 * a random one. Returns how many.
 */
INLINE __u32 dns_addresses(struct dns *d, const struct dns_name *row,
			   __u32 ttl)
{
	bool v6 = d->type == DNS_AAAA;
	__u32 n = v6 ? row->n6 : row->n4;
	__u32 first;

	if (!n || n > DNS_ADDRESSES)
		return 0;
	first = bpf_get_prandom_u32() % n;
	/* Forgotten here, for both bounds of the loop to stay. */
	asm volatile("" : "+r"(n));
	if (v6)
		dns_addresses6(d, row, ttl, n, first);
	else
		dns_addresses4(d, row, ttl, n, first);
	return n;
}

/* dns_soa adds the zone's start of authority, which denials need. */
INLINE void dns_soa(struct dns *d, const struct dns_zone *z)
{
	static const char names[] = "\x02ns\x03" "dns\xc0\x00\x0ahostmaster\xc0";
	__u8 *to = d->message + within(d->end, 512);
	__u16 apex = d->labels[within(d->count - z->labels, DNS_LABELS)];
	__u32 ttl = z->ttl;
	__be32 *n = (__be32 *)(to + sizeof(struct dns_record) + 22);

	apex += DNS_HEADER;
	dns_record((struct dns_record *)to, 0xc000 | apex, DNS_SOA_TYPE,
		   ttl < DNS_MAX_SOA_TTL ? ttl : DNS_MAX_SOA_TTL,
		   DNS_SOA - sizeof(struct dns_record));
	to += sizeof(struct dns_record);
	__builtin_memcpy(to, names, 21);
	to[7] |= apex >> 8;
	to[8] = apex;
	to[20] |= apex >> 8;
	to[21] = apex;
	n[0] = bpf_htonl(z->serial);
	n[1] = bpf_htonl(7200);
	n[2] = bpf_htonl(1800);
	n[3] = bpf_htonl(86400);
	n[4] = bpf_htonl(ttl);
}

/* dns_finish completes the message, whose records end at a place. */
INLINE void dns_finish(struct dns *d, __u32 at, __u16 rcode, __u16 answers)
{
	__be16 *h = (__be16 *)d->message;
	__u8 *opt = d->message + within(at, DNS_BUFFER);

	h[1] = bpf_htons((d->flags & DNS_RD_CD) | DNS_QR_AA | rcode);
	h[3] = bpf_htons(answers);
	h[4] = bpf_htons(!answers);
	if (!d->edns)
		return;
	opt[0] = 0;
	*(__be16 *)(opt + 1) = bpf_htons(DNS_OPT_TYPE);
	*(__be16 *)(opt + 3) = bpf_htons(DNS_MAX_UDP);
	*(__be16 *)(opt + 5) = 0;
	*(__be16 *)(opt + 7) = d->dnssec_ok ? bpf_htons(DNS_DO) : 0;
	*(__be16 *)(opt + 9) = 0;
}

/* dns_headers turns the packet's headers around for a message that is longer by
 * so much. Exchanging ends changes no sum; the other changes are added to it
 * one by one, which is right for unfinished checksums too: those are of the
 * pseudo-header alone.
 */
INLINE int dns_headers(struct __sk_buff *skb, const struct packet *p,
		       const struct dns *d, __u32 length, __s64 sum)
{
	__be16 from = bpf_htons(d->length + 8), to = bpf_htons(length + 8);
	__be16 udp[3] = {p->dport, p->sport, to};
	__be16 was = bpf_htons(p->length), is;
	__u32 csum = p->l4 + UDP_CSUM;
	int err;

	is = bpf_htons(p->length + length - d->length);
	err = bpf_l4_csum_replace(skb, csum, 0, sum, BPF_F_MARK_MANGLED_0);
	err |= bpf_l4_csum_replace(skb, csum, from, to,
				   BPF_F_MARK_MANGLED_0 | sizeof(to));
	err |= bpf_l4_csum_replace(skb, csum, from, to,
				   BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR |
					   sizeof(to));
	err |= bpf_skb_store_bytes(skb, p->l4, udp, sizeof(udp), 0);
	if (p->v6) {
		err |= bpf_skb_store_bytes(skb, IP6_OFF(payload_len), &to,
					   sizeof(to), 0);
	} else {
		err |= bpf_l3_csum_replace(skb, IP_OFF(check), was, is,
					   sizeof(is));
		err |= bpf_skb_store_bytes(skb, IP_OFF(tot_len), &is,
					   sizeof(is), 0);
	}
	err |= reject_swap_addr(skb, p);
	return err | reject_swap_mac(skb);
}

/* The verdict of a query that is left to the server. */
#define DNS_PASS (-1)

INLINE int dns_leave(int reason)
{
	dns_add(reason);
	return DNS_PASS;
}

/* dns_send makes the packet the answer that is in the message, up to a length,
 * and sends it back. Returns a verdict, or DNS_PASS.
 */
SEPARATE int dns_send(struct __sk_buff *skb, __u32 length, __u32 kind)
{
	struct flow *f = flow_get();
	struct dns *d = dns_get();
	__u32 n, index;
	__s64 sum;

	if (!f || !d || length > DNS_BUFFER / 4 * 3)
		return DNS_PASS;
	if (length > d->limit)
		return dns_leave(DNS_LONG);
	if (bpf_skb_change_tail(skb, skb->len + length - d->length, 0))
		return dns_leave(DNS_REFUSED);
	n = dns_words(d, length);
	/* One call sums up 512 bytes at most. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)d->message,
			    n < 512 ? within(n, 512) : 512, d->sum);
	if (n > 512)
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(d->message + 512),
				    within(n - 512, 256), sum);
	n = within(length - 1, DNS_BUFFER) + 1;
	if (dns_headers(skb, &f->packet, d, length, sum) ||
	    bpf_skb_store_bytes(skb, f->packet.l4 + 8, d->message, n, 0))
		return flow_drop(skb, DROP_REWRITE, PLACE_FROM_POD);
	index = d->type == DNS_A ? 0 : d->type == DNS_AAAA ? 1 : 2;
	dns_add((kind * DNS_TYPES + index) * DNS_FAMILIES + f->packet.v6);
	return bpf_redirect_peer(skb->ifindex, 0);
}

/* dns_build writes the answer from the row, NULL if the name does not exist.
 * Returns its length.
 */
INLINE __u32 dns_build(struct dns *d, const struct dns_name *row,
		       const struct dns_zone *z, __u32 *kind)
{
	__u32 n = 0, at = d->end;

	*kind = row ? DNS_NODATA : DNS_ABSENT;
	if (row && (d->type == DNS_A || d->type == DNS_AAAA))
		n = dns_addresses(d, row, z->ttl);
	if (n) {
		*kind = DNS_FOUND;
		at += n * (sizeof(struct dns_record) +
			   (d->type == DNS_AAAA ? 16 : 4));
	} else {
		dns_soa(d, z);
		at += DNS_SOA;
	}
	dns_finish(d, at, row ? 0 : DNS_NXDOMAIN, n);
	return d->edns ? at + DNS_OPT : at;
}

/* dns_row decides whether what the row has is the answer. Returns 0, or the
 * reason to leave it.
 */
INLINE int dns_row(const struct dns *d, const struct dns_name *row)
{
	if (row->flags & DNS_SERVER)
		return DNS_LEFT;
	if (d->type == DNS_A || d->type == DNS_AAAA)
		return 0;
	if (row->flags & DNS_ADDRESSES_ONLY ||
	    (d->type == DNS_SRV && row->flags & DNS_HAS_SRV))
		return DNS_RECORD_TYPE;
	return 0;
}

/* dns_answer answers the query in the packet, which may be sent to the server.
 * Returns a verdict, or DNS_PASS.
 */
SEPARATE int dns_answer(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct dns *d = dns_get();
	struct dns_zone *at;
	struct dns_name *row = NULL;
	__u32 zero = 0, kind, length;
	bool fits;
	int reason;

	at = bpf_map_lookup_elem(&zone, &zero);
	if (!f || !d || !at || !(at->flags & DNS_ANSWER))
		return dns_leave(DNS_OFF);
	reason = dns_parse(skb);
	if (reason)
		return dns_leave(reason);
	fits = dns_key_of(skb, f, d, 0);
	if (fits)
		row = bpf_map_lookup_elem(&record, &d->key);
	reason = row ? dns_row(d, row) : dns_absent(skb, d, at, !fits);
	if (reason)
		return dns_leave(reason);
	length = dns_build(d, row, at, &kind);
	return dns_send(skb, length, kind);
}

#endif
