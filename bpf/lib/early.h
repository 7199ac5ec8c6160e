/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * early: fragments that come before the first one of their datagram, whose
 * ports nobody knows yet. A program cannot keep a packet, but it can send it
 * round: to the end of the queue of the device that it came by, where it meets
 * the program again. So the first fragment has time to overtake it: network
 * cards bring fragments of one datagram by several queues.
 */
#ifndef SKEP_EARLY_H
#define SKEP_EARLY_H

#include "scratch.h"

/* A fragment goes round so often: some milliseconds. On a veth the sender is
 * held up for two of them, until its CPU lets it go on.
 */
#define EARLY_ROUNDS 8192

/* Rounds cost a microsecond each, and anybody can send fragments: a CPU has
 * so many for each millisecond, a twentieth of its time, and saves up for so
 * many.
 */
#define EARLY_MS_ROUNDS 50
#define NSEC_PER_MSEC 1000000ULL
#define EARLY_SAVED (4 * EARLY_ROUNDS)

/* early_afford takes a round from what this CPU has. */
INLINE bool early_afford(struct flow *f)
{
	__u64 now = bpf_ktime_get_ns() / NSEC_PER_MSEC;
	__u64 rounds = f->rounds + (now - f->refilled) * EARLY_MS_ROUNDS;

	if (rounds > EARLY_SAVED)
		rounds = EARLY_SAVED;
	f->refilled = now;
	f->rounds = rounds ? rounds - 1 : 0;
	return rounds;
}

/* early_round tells whether the fragment at hand is to go round again. */
SEPARATE int early_round(struct __sk_buff *skb)
{
	struct flow *f = flow_get();
	struct fragment begun = {.rounds = 1};
	struct fragment *seen;
	struct fragment_key key;

	asm volatile("" : : "r"(skb)); /* see flow_verdict */
	if (!f || !early_afford(f))
		return false;
	fragment_key_of(&key, &f->packet);
	seen = bpf_map_lookup_elem(&fragment, &key);
	if (!seen)
		return !bpf_map_update_elem(&fragment, &key, &begun,
					    BPF_NOEXIST);
	/* The first one may have come since the packet was read. */
	return !seen->rounds || seen->rounds++ < EARLY_ROUNDS;
}

/* early tells whether the packet is a fragment that is to go round: one of a
 * protocol whose first fragments have ports.
 */
INLINE bool early(struct __sk_buff *skb, const struct packet *p)
{
	return p->continued && !p->has_ports &&
	       (p->proto == IPPROTO_UDP || p->proto == IPPROTO_TCP ||
		packet_icmp(p)) &&
	       early_round(skb);
}

#endif
