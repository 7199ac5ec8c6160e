/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * addr: an IP address. Sixteen bytes in network order; an IPv4 address is
 * mapped (::ffff:a.b.c.d). There is one form, so one map and one path serve
 * both families.
 */
#ifndef SKEP_ADDR_H
#define SKEP_ADDR_H

#include "bpf.h"

struct addr {
	__u8 bytes[16];
} __attribute__((aligned(4)));

/* network: the addresses a with (a & mask) == addr. All zero: not set, it
 * contains nothing.
 */
struct network {
	struct addr addr;
	struct addr mask;
};

INLINE __u32 addr_word(const struct addr *a, int i)
{
	return ((const __u32 *)a->bytes)[i];
}

/* addr_v4 gives the IPv4 address of a mapped address, in network order. */
INLINE __be32 addr_v4(const struct addr *a)
{
	return addr_word(a, 3);
}

INLINE void addr_set_v4(struct addr *a, __be32 v4)
{
	__u32 *w = (__u32 *)a->bytes;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = v4;
}

INLINE bool addr_equal(const struct addr *a, const struct addr *b)
{
	return addr_word(a, 3) == addr_word(b, 3) &&
	       addr_word(a, 2) == addr_word(b, 2) &&
	       addr_word(a, 1) == addr_word(b, 1) &&
	       addr_word(a, 0) == addr_word(b, 0);
}

/* addr_loopback_v4 tells whether a is in 127.0.0.0/8. */
INLINE bool addr_loopback_v4(const struct addr *a)
{
	return addr_word(a, 2) == bpf_htonl(0xffff) &&
	       (addr_word(a, 3) & bpf_htonl(0xff000000)) ==
		       bpf_htonl(0x7f000000);
}

/* addr_is_v4 tells whether a is an IPv4 address. */
INLINE bool addr_is_v4(const struct addr *a)
{
	return !addr_word(a, 0) && !addr_word(a, 1) &&
	       addr_word(a, 2) == bpf_htonl(0xffff);
}

/* addr_loopback tells whether a is in 127.0.0.0/8 or ::1. */
INLINE bool addr_loopback(const struct addr *a)
{
	return addr_loopback_v4(a) ||
	       (!addr_word(a, 0) && !addr_word(a, 1) && !addr_word(a, 2) &&
		addr_word(a, 3) == bpf_htonl(1));
}

/* addr_link_local tells whether a is in fe80::/10. */
INLINE bool addr_link_local(const struct addr *a)
{
	return (addr_word(a, 0) & bpf_htonl(0xffc00000)) ==
	       bpf_htonl(0xfe800000);
}

/* addr_special tells whether a is multicast, reserved, broadcast or of the
 * link alone.
 */
INLINE bool addr_special(const struct addr *a)
{
	if (addr_is_v4(a))
		return bpf_ntohl(addr_word(a, 3)) >= 0xe0000000;
	return a->bytes[0] == 0xff || addr_link_local(a);
}

INLINE bool network_contains(const volatile struct network *n,
			     const struct addr *a)
{
	const volatile __u32 *na = (const volatile __u32 *)n->addr.bytes;
	const volatile __u32 *nm = (const volatile __u32 *)n->mask.bytes;

	return nm[0] && (addr_word(a, 3) & nm[3]) == na[3] &&
	       (addr_word(a, 2) & nm[2]) == na[2] &&
	       (addr_word(a, 1) & nm[1]) == na[1] &&
	       (addr_word(a, 0) & nm[0]) == na[0];
}

#endif
