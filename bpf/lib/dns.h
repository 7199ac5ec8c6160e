/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * dns: look-ups of cluster names: what is known of names, and reading queries.
 * Numbers of messages are in network byte order.
 */
#ifndef SKEP_DNS_H
#define SKEP_DNS_H

#include "flow.h"

#define DNS_HEADER 12
#define DNS_QUESTION 4 /* type and class behind the name */
#define DNS_OPT 11
#define DNS_SOA 54

/* Names of more labels, queries that are longer, and names that do not fit
 * into a key are the server's.
 */
#define DNS_LABELS 16
#define DNS_QUERY_MAX 320
#define DNS_KEY 96

#define DNS_NAME_MAX 255
#define DNS_ADDRESSES 16

/* What clients take without EDNS, and what is ever sent to others. */
#define DNS_MIN_UDP 512
#define DNS_MAX_UDP 1232
/* What is built here is shorter than three quarters of it; behind it is room for
 * what begins at its end.
 */
#define DNS_BUFFER 1024
#define DNS_SPARE 64

#define DNS_QR_OPCODE 0xf800
#define DNS_RD_CD 0x0110 /* of the query, repeated */
#define DNS_QR_AA 0x8400
#define DNS_NXDOMAIN 3
#define DNS_DO 0x8000
#define DNS_MAX_SOA_TTL 300
#define DNS_OWNER 0xc00c /* a pointer to the question's name */

enum dns_type {
	DNS_A = 1,
	DNS_SOA_TYPE = 6,
	DNS_AAAA = 28,
	DNS_SRV = 33,
	DNS_OPT_TYPE = 41,
	DNS_META = 249,	    /* the first of those that ask for more */
	DNS_META_LAST = 255, /* than records of a type */
};

enum dns_zone_flag {
	DNS_ANSWER = 1,	  /* the rows are right: names that have one are
			   * answered
			   */
	DNS_COMPLETE = 2, /* names that have none do not exist */
};

/* dns_zone: the cluster's zone, as all answers need it. */
struct dns_zone {
	__u32 flags;  /* enum dns_zone_flag */
	__u32 ttl;    /* seconds */
	__u32 serial; /* of the SOA */
	__u32 labels; /* of the zone's name */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct dns_zone);
	__uint(max_entries, 1);
} zone SEC(".maps");

/* dns_key: a whole name in wire form, lower case, padded with zeros. */
struct dns_key {
	__u8 name[DNS_KEY];
} __attribute__((aligned(8)));

enum dns_name_flag {
	DNS_SERVER = 1,	    /* all about the name is the server's */
	DNS_ADDRESSES_ONLY = 2, /* all but A and AAAA is */
	DNS_HAS_SRV = 4,    /* SRV are */
	DNS_APEX = 8,	    /* the zone's own name */
	DNS_SERVICES = 16,  /* svc: Services are two labels below */
	DNS_PODS = 32,	    /* pod: pods are two labels below */
};

/* dns_name: what a name has. Without addresses it exists all the same. */
struct dns_name {
	__u16 flags; /* enum dns_name_flag */
	__u8 n4, n6; /* addresses, DNS_ADDRESSES at most */
	__be32 v4[DNS_ADDRESSES];
	__be32 v6[DNS_ADDRESSES][4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct dns_key);
	__type(value, struct dns_name);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} record SEC(".maps");

/* Counted are answers by what they say, the question's type and the family, and
 * what was left to the server by the reason.
 */
enum dns_count {
	DNS_FOUND,  /* addresses */
	DNS_NODATA, /* the name exists, and has no such records */
	DNS_ABSENT, /* NXDOMAIN */
	DNS_KINDS,
	DNS_FORM = 24, /* not a plain query in a plain packet */
	DNS_EDNS,	    /* an OPT with options, of another version, malformed */
	DNS_RECORD_TYPE,    /* a type that only the server has */
	DNS_LONG,	    /* a name, or an answer, that is too long */
	DNS_OUTSIDE,	    /* no name of the zone */
	DNS_LEFT,	    /* the row says so */
	DNS_BELOW,	    /* below a Service, or a pod's */
	DNS_INCOMPLETE,	    /* the name may exist */
	DNS_REFUSED,	    /* the kernel did not lengthen the packet */
	DNS_OFF,	    /* not ready, or switched off */
	DNS_COUNTS,
};

/* Types are counted apart: A, AAAA, others; each of two families. */
#define DNS_TYPES 3
#define DNS_FAMILIES 2

/* key: enum dns_count, or of answers (kind * DNS_TYPES + type) * DNS_FAMILIES +
 * family
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DNS_COUNTS);
} lookup SEC(".maps");

/* Keeps the names in BTF, where Go finds them. */
volatile const enum dns_count dns_counts = DNS_COUNTS;
volatile const enum dns_zone_flag dns_zone_flags = DNS_ANSWER;
volatile const enum dns_name_flag dns_name_flags = DNS_SERVER;

INLINE void dns_add(__u32 index)
{
	__u64 *n = bpf_map_lookup_elem(&lookup, &index);

	if (n)
		(*n)++;
}

/* dns: the query at hand. */
struct dns {
	__u8 message[DNS_BUFFER + DNS_SPARE]; /* the query; then the answer */
	struct dns_key key;
	__u8 labels[DNS_LABELS + 1]; /* where each begins, in the name */
	__u32 count;		     /* of labels */
	__u32 name;		     /* its length */
	__u32 end;		     /* of the question, in the message */
	__u32 length;		     /* of the query */
	__u32 limit;		     /* of the answer */
	__u16 flags;		     /* of the query, host byte order */
	__u16 type;		     /* of the question, likewise */
	__u32 sum;		     /* the query's part of the checksum */
	bool edns;
	bool dnssec_ok;
};

/* As scratch: what is worked on is in a map for the verifier's sake. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct dns);
	__uint(max_entries, 1);
} dns_scratch SEC(".maps");

INLINE struct dns *dns_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&dns_scratch, &zero);
}

/* within keeps a number below a size, a power of two, in one register, for the verifier
 * to see that what is bounded is used.
 */
#define within(n, size)                                                        \
	({                                                                     \
		__u64 n_ = (n);                                                \
		asm volatile("" : "+r"(n_));                                   \
		n_ &= (size) - 1;                                              \
		asm volatile("" : "+r"(n_));                                   \
		n_;                                                            \
	})

INLINE __u16 dns_u16(const struct dns *d, __u32 at)
{
	const __u8 *b = d->message + within(at, 512);

	return b[0] << 8 | b[1];
}

/* dns_words gives the size of a message in whole words; those bytes of the last
 * one that are not its own become zero.
 */
INLINE __u32 dns_words(struct dns *d, __u32 length)
{
	*(__u32 *)(d->message + within(length, DNS_BUFFER)) = 0;
	return (length + 3) & ~3;
}

/* dns_load reads the message: a plain packet and a plain query. */
INLINE int dns_load(struct __sk_buff *skb, const struct packet *p,
		    struct dns *d)
{
	__u32 l4 = ETH_HLEN +
		   (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 n = p->length + ETH_HLEN - l4 - 8;
	__be16 udp;

	if (p->fragment || p->l4 != l4 || skb->len != p->length + ETH_HLEN ||
	    bpf_skb_load_bytes(skb, l4 + 4, &udp, sizeof(udp)) ||
	    bpf_ntohs(udp) != n + 8)
		return DNS_FORM;
	if (n < DNS_HEADER + 1 + DNS_QUESTION || n > DNS_QUERY_MAX)
		return DNS_FORM;
	d->length = n;
	n = within(n - 1, 512) + 1;
	if (bpf_skb_load_bytes(skb, l4 + 8, d->message, n))
		return DNS_FORM;
	d->flags = dns_u16(d, 2);
	if ((d->flags & DNS_QR_OPCODE) || dns_u16(d, 4) != 1 ||
	    dns_u16(d, 6) || dns_u16(d, 8) || dns_u16(d, 10) > 1)
		return DNS_FORM;
	return 0;
}

/* dns_labels finds the labels of the question's name. */
INLINE int dns_labels(struct dns *d)
{
	__u64 at = DNS_HEADER;
	__u32 i;
	__u8 n;

	for (i = 0; i <= DNS_LABELS; i++) {
		at = within(at, 512);
		n = d->message[at];
		d->labels[i] = at - DNS_HEADER;
		if (!n)
			break;
		if (n > 63)
			return DNS_FORM;
		at += n + 1;
		if (at > DNS_HEADER + DNS_NAME_MAX - 1)
			return DNS_FORM;
	}
	if (i > DNS_LABELS)
		return DNS_LONG;
	d->count = i;
	d->name = at + 1 - DNS_HEADER;
	d->end = at + 1 + DNS_QUESTION;
	return d->end > d->length ? DNS_FORM : 0;
}

/* dns_edns reads the OPT, if there is one, behind which nothing may be. */
INLINE int dns_edns(struct dns *d)
{
	__u32 at = d->end;
	__u32 size;

	d->edns = false;
	d->dnssec_ok = false;
	d->limit = DNS_MIN_UDP;
	if (!dns_u16(d, 10))
		return d->length == at ? 0 : DNS_FORM;
	if (d->length != at + DNS_OPT || d->message[within(at, 512)] ||
	    dns_u16(d, at + 1) != DNS_OPT_TYPE ||
	    d->message[within(at + 6, 512)] || dns_u16(d, at + 9))
		return DNS_EDNS;
	size = dns_u16(d, at + 3);
	d->edns = true;
	d->dnssec_ok = dns_u16(d, at + 7) & DNS_DO;
	if (size > DNS_MIN_UDP)
		d->limit = size < DNS_MAX_UDP ? size : DNS_MAX_UDP;
	return 0;
}

/* dns_parse reads the query. Returns 0, or the reason to leave it. */
SEPARATE int dns_parse(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct dns *d = dns_get();
	int reason;

	if (!f || !d)
		return DNS_OFF;
	reason = dns_load(skb, &f->packet, d);
	if (reason)
		return reason;
	reason = dns_labels(d);
	if (reason)
		return reason;
	reason = dns_edns(d);
	if (reason)
		return reason;
	if (dns_u16(d, d->end - 2) != 1) /* class IN */
		return DNS_FORM;
	d->type = dns_u16(d, d->end - 4);
	if (!d->type || d->type == DNS_OPT_TYPE ||
	    (d->type >= DNS_META && d->type <= DNS_META_LAST))
		return DNS_RECORD_TYPE;
	d->sum = bpf_csum_diff((__be32 *)d->message,
			       within(dns_words(d, d->length), 512), NULL, 0,
			       0);
	return 0;
}

/* dns_lower makes letters lower case, eight at a time. Lengths of labels are
 * below 'A', so they stay.
 */
INLINE __u64 dns_lower(__u64 x)
{
	const __u64 ones = 0x0101010101010101;
	__u64 seven = x & 0x7f * ones;
	__u64 upper = (seven + (0x80 - 'A') * ones) &
		      ~(seven + (0x7f - 'Z') * ones) & ~x & 0x80 * ones;

	return x | upper >> 2;
}

/* dns_key_of makes the key of the question's name from a place in it. False: it
 * does not fit.
 */
INLINE bool dns_key_of(struct __sk_buff *skb, struct flow *f, struct dns *d,
		       __u32 from)
{
	__u32 n = d->name - from;
	__u64 *w = (__u64 *)d->key.name;

	if (n < 1 || n > DNS_KEY)
		return false;
	__builtin_memset(&d->key, 0, sizeof(d->key));
	n = within(n - 1, 128) + 1;
	if (bpf_skb_load_bytes(skb, f->packet.l4 + 8 + DNS_HEADER + from,
			       &d->key, n))
		return false;
	for (int i = 0; i < DNS_KEY / 8; i++)
		w[i] = dns_lower(w[i]);
	return true;
}

/* What dns_find says of a name without a row. */
#define DNS_NO_ROW (1 << 16)
#define DNS_NO_KEY (1 << 17)

/* dns_find gives the flags of the row of the name that begins with a label. */
SEPARATE int dns_find(struct __sk_buff *skb, __u32 label)
{
	struct flow *f = flow_get();
	struct dns *d = dns_get();
	struct dns_name *row;

	if (!f || !d)
		return DNS_NO_KEY;
	if (!dns_key_of(skb, f, d, d->labels[within(label, DNS_LABELS)]))
		return DNS_NO_KEY;
	row = bpf_map_lookup_elem(&record, &d->key);
	return row ? row->flags : DNS_NO_ROW;
}

/* dns_absent decides about a name that has no row, by what is above it. long:
 * it could have none. Returns 0 if it does not exist, or the reason to leave
 * it.
 */
INLINE int dns_absent(struct __sk_buff *skb, struct dns *d,
		      const struct dns_zone *z, bool is_long)
{
	__u32 above = d->count - z->labels; /* labels before the zone's */
	int top, parent;

	if (d->count <= z->labels)
		return DNS_OUTSIDE;
	if (!(z->flags & DNS_COMPLETE))
		return DNS_INCOMPLETE;
	top = dns_find(skb, above - 1);
	if (top == DNS_NO_KEY)
		return DNS_LONG;
	if (top == DNS_NO_ROW) {
		top = dns_find(skb, above);
		return !(top & (DNS_NO_KEY | DNS_NO_ROW)) && (top & DNS_APEX)
			       ? 0
			       : DNS_OUTSIDE;
	}
	if (is_long && above < 4 && !(top & DNS_PODS))
		return DNS_LONG;
	if (top & DNS_SERVICES) {
		if (above < 4 || above > 5)
			return 0;
		parent = dns_find(skb, above - 3);
	} else if (top & DNS_PODS) {
		if (above != 3)
			return is_long && above < 3 ? DNS_LONG : 0;
		parent = dns_find(skb, 1);
	} else {
		return 0;
	}
	if (parent == DNS_NO_KEY)
		return DNS_LONG;
	return parent == DNS_NO_ROW ? 0 : DNS_BELOW;
}

#endif
