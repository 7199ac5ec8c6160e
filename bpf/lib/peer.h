/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * peer: what a socket was told about its translated peer, so that recvmsg
 * and getpeername show the Service and not the backend. Kept in the socket
 * itself, so it needs no key and goes when the socket goes.
 */
#ifndef SKEP_PEER_H
#define SKEP_PEER_H

#include "addr.h"
#include "load.h"
#include "traffic.h"

/* peer_tcp: what is known of a connection. */
enum peer_tcp {
	PEER_OTHER,    /* a datagram socket, or a connection not begun */
	PEER_FOLLOWED, /* its bytes are counted when it is closed */
	PEER_CLOSED,   /* they were */
};

/* peer: the address that the program used, and the one it was given. */
struct peer {
	struct addr asked;
	struct addr given;
	__be16 asked_port;
	__be16 given_port;
	__u32 service;	/* index into service */
	__u32 slot;	/* index of the backend in the service */
	__u32 revision; /* of the service when slot was known good */
	__u8 proto;	/* IPPROTO_TCP, IPPROTO_UDP */
	__u8 counted;	/* 1: in the load of the backend */
	__u8 tcp;	/* enum peer_tcp */
	__u8 pad;	/* 0 */
	__u32 ends;	/* of a connection that is followed: 1 once it is
			 * closed, or released. With the second the row goes
			 */
	__u64 netns;	/* cookie of the socket's network namespace */
};

/* A datagram socket that is not connected may talk to many Services; the
 * last PEERS are remembered.
 */
#define PEERS 8

struct datagram_peers {
	struct peer peer[PEERS];
	__u32 next; /* where the next one goes, below PEERS */
	__u32 last; /* the one used last: it answers first if several share
		     * a backend
		     */
};

/* key: the cookie of a connected socket; removed when the socket is released.
 * A hash and not the socket's own storage: that is allocated and freed for
 * each connection at several times the cost. Full: see peer_connected.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct peer);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} peer SEC(".maps");

/* datagram sockets that name a destination each time */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct datagram_peers);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} datagram SEC(".maps");

INLINE bool peer_asked(const struct peer *p, const struct addr *a, __be16 port)
{
	return p->asked_port == port && addr_equal(&p->asked, a);
}

INLINE bool peer_given(const struct peer *p, const struct addr *a, __be16 port)
{
	return p->given_port == port && addr_equal(&p->given, a);
}

/* peer_uncount takes a socket out of the load of its backend. */
INLINE void peer_uncount(struct peer *p)
{
	if (p->counted)
		load_remove(p->service, &p->given, p->given_port);
	p->counted = 0;
}

/* peer_connected remembers the peer of a connected socket, and counts it if
 * the service chooses by load. No room is no error: the socket then shows the
 * backend. A socket may connect again, and has left its old peer then.
 */
INLINE void peer_connected(struct bpf_sock_addr *ctx, struct peer *p, bool count)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct peer *old;
	int err;

	p->proto = ctx->protocol;
	p->netns = bpf_get_netns_cookie(ctx);
	if (count)
		p->counted = load_add(p->service, &p->given, p->given_port);
	err = bpf_map_update_elem(&peer, &cookie, p, BPF_NOEXIST);
	if (err == -EEXIST) {
		old = bpf_map_lookup_elem(&peer, &cookie);
		if (old)
			peer_uncount(old);
		err = bpf_map_update_elem(&peer, &cookie, p, BPF_ANY);
	}
	if (err)
		peer_uncount(p);
}

/* peer_last notes one of the two ends of a connection that is followed, which
 * may come at once on two CPUs, and tells whether that was the second.
 */
INLINE bool peer_last(struct peer *p)
{
	__sync_fetch_and_add(&p->ends, 1);
	return *(volatile __u32 *)&p->ends >= 2;
}

/* peer_released forgets what a socket was given. */
INLINE void peer_released(struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct peer *p = bpf_map_lookup_elem(&peer, &cookie);

	/* Looking first spares most sockets the lock of a bucket. */
	if (!p)
		return;
	peer_uncount(p);
	if (p->tcp == PEER_OTHER || peer_last(p))
		bpf_map_delete_elem(&peer, &cookie);
}

/* peer_followed tells whether a connection that begins was translated. */
INLINE bool peer_followed(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct peer *p = bpf_map_lookup_elem(&peer, &cookie);

	/* The row of a socket that has connected elsewhere since is old. */
	if (!p || p->tcp != PEER_OTHER)
		return false;
	p->tcp = PEER_FOLLOWED;
	return true;
}

/* peer_closed counts what a connection has carried, but for the place that
 * its SYN has among the bytes. It may have been released long before.
 */
INLINE void peer_closed(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct peer *p = bpf_map_lookup_elem(&peer, &cookie);
	struct traffic *t;
	__u64 sent;

	if (!p || p->tcp != PEER_FOLLOWED)
		return;
	p->tcp = PEER_CLOSED;
	t = traffic_get(p->service);
	sent = ctx->bytes_acked;
	if (t) {
		t->payload[TRAFFIC_THERE] += sent ? sent - 1 : 0;
		t->payload[TRAFFIC_BACK] += ctx->bytes_received;
	}
	if (peer_last(p))
		bpf_map_delete_elem(&peer, &cookie);
}

/* datagram_find finds what the socket was last given for an asked address. */
INLINE struct peer *datagram_find(struct datagram_peers *d,
				  const struct addr *asked, __be16 port)
{
	for (int i = 0; i < PEERS; i++)
		if (peer_asked(&d->peer[i], asked, port)) {
			d->last = i;
			return &d->peer[i];
		}
	return NULL;
}

INLINE void datagram_add(struct datagram_peers *d, const struct peer *p)
{
	__u32 i = d->next;

	if (i >= PEERS)
		i = 0;
	d->peer[i] = *p;
	d->last = i;
	d->next = i + 1;
}

/* peer_shown finds the peer by the address that it really has; NULL: the
 * address was not translated.
 */
INLINE struct peer *peer_shown(struct bpf_sock_addr *ctx,
			       const struct addr *given, __be16 port)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct peer *p = bpf_map_lookup_elem(&peer, &cookie);
	struct datagram_peers *d;

	if (p && peer_given(p, given, port))
		return p;
	if (!ctx->sk)
		return NULL;
	d = bpf_sk_storage_get(&datagram, ctx->sk, 0, 0);
	if (!d)
		return NULL;
	if (d->last < PEERS && peer_given(&d->peer[d->last], given, port))
		return &d->peer[d->last];
	for (int i = 0; i < PEERS; i++)
		if (peer_given(&d->peer[i], given, port))
			return &d->peer[i];
	return NULL;
}

#endif
