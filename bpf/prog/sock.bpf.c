// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * sock: Services are translated when a socket names its peer, so that the
 * packets need nothing. Attached to the cgroup root, for pods and for the
 * node's own processes. Each program returns 1 to let the call go on.
 *
 * The *6 programs serve sockets of family AF_INET6 that talk to an IPv4
 * peer by its mapped address; other IPv6 addresses miss the maps.
 */
#include "../lib/bpf.h"
#include "../lib/config.h"
#include "../lib/drop.h"
#include "../lib/event.h"
#include "../lib/netns.h"
#include "../lib/peer.h"
#include "../lib/service.h"
#include "../lib/traffic.h"

enum outcome {
	PASS,	   /* not a Service: leave it alone */
	TRANSLATE, /* *peer says where to */
	REFUSE,	   /* a Service that nobody serves */
	FORBID,	   /* the same, where the kernel can say no more than EPERM */
};

INLINE bool l4_translated(__u32 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

/* tell tells who watches of a socket that was translated, or refused for a
 * reason.
 */
INLINE void tell(struct bpf_sock_addr *ctx, const struct peer *p,
		 const struct addr *client, enum drop_reason reason)
{
	struct watch *w = watch_get();
	struct event *e = w ? event_begin(w) : NULL;

	if (!e)
		return;
	e->src = *client;
	e->dst = p->asked;
	e->dport = p->asked_port;
	e->new_dst = p->given;
	e->new_dport = p->given_port;
	e->service = p->service;
	e->kind = reason == DROP_REASON_COUNT ? EVENT_NEW : EVENT_DROP;
	e->reason = reason;
	e->place = PLACE_SOCK;
	e->proto = ctx->protocol;
	bpf_ringbuf_submit(e, 0);
}

/* refused notes a reason. */
INLINE enum outcome refused(struct bpf_sock_addr *ctx, const struct peer *p,
			    const struct addr *client, enum drop_reason reason)
{
	drop_count(reason, PLACE_SOCK, 0);
	tell(ctx, p, client, reason);
	return REFUSE;
}

/* choose fills the given half of p from a fresh choice. */
INLINE enum outcome choose(struct bpf_sock_addr *ctx, struct peer *p,
			   const struct service *s, const struct addr *client)
{
	struct backend *b = service_choose(p->service, s, client, 0, &p->slot);

	if (!b) {
		traffic_refused(p->service);
		return refused(ctx, p, client, DROP_NO_BACKEND);
	}
	p->given = b->addr;
	p->given_port = b->port;
	p->revision = s->revision;
	traffic_socket(p->service);
	tell(ctx, p, client, DROP_REASON_COUNT);
	return TRANSLATE;
}

/* find looks up the service of the asked half of p, and who the client is. What
 * misses, as most connections do, pays for nothing else.
 */
INLINE enum outcome find(struct bpf_sock_addr *ctx, struct peer *p,
			 struct service **s, struct addr *client)
{
	struct addr node = {};
	bool here = addr_loopback(&p->asked) && netns_is_host(ctx);
	struct frontend *f;

	f = frontend_lookup(&p->asked, p->asked_port, ctx->protocol, here);
	if (!f && !services_contain(&p->asked))
		return PASS;
	if (!netns_client(ctx, client))
		return PASS;
	if (!f)
		return refused(ctx, p, client, DROP_NO_SERVICE);
	if (!addr_equal(client, &node) && !frontend_admits(f, client))
		return refused(ctx, p, client, DROP_SOURCE_RANGE);
	p->service = f->service;
	*s = service_get(f->service);
	return *s ? TRANSLATE : PASS;
}

INLINE enum outcome connect(struct bpf_sock_addr *ctx, struct peer *p)
{
	struct addr client;
	struct service *s;
	enum outcome o = find(ctx, p, &s, &client);

	if (o == TRANSLATE)
		o = choose(ctx, p, s, &client);
	if (o == TRANSLATE)
		peer_connected(ctx, p, s->flags & SERVICE_LEAST);
	return o;
}

/* still_serves tells whether a remembered choice is a backend yet. */
INLINE bool still_serves(struct peer *p, const struct service *s)
{
	struct backend *b;

	if (p->revision == s->revision)
		return true;
	if (p->slot >= s->backends)
		return false;
	b = slot_get(p->service, p->slot);
	if (!b || !peer_given(p, &b->addr, b->port))
		return false;
	p->revision = s->revision;
	return true;
}

/* sendmsg keeps the datagrams of one socket to one Service on one backend
 * for as long as that serves: protocols on top of UDP have connections too.
 */
INLINE enum outcome datagram_to(struct bpf_sock_addr *ctx, struct peer *p)
{
	struct datagram_peers *known;
	struct addr client;
	struct service *s;
	struct peer *last = NULL;
	enum outcome o = find(ctx, p, &s, &client);

	if (o != TRANSLATE)
		return o;
	known = bpf_sk_storage_get(&datagram, ctx->sk, 0,
				   BPF_SK_STORAGE_GET_F_CREATE);
	if (known)
		last = datagram_find(known, &p->asked, p->asked_port);
	if (last && last->service == p->service && still_serves(last, s)) {
		p->given = last->given;
		p->given_port = last->given_port;
		return TRANSLATE;
	}
	o = choose(ctx, p, s, &client);
	if (o != TRANSLATE)
		return o;
	if (last)
		*last = *p;
	else if (known)
		datagram_add(known, p);
	return TRANSLATE;
}

/* sendmsg: no error comes back to a socket that is not connected, so a
 * datagram must not be sent where nobody listens.
 */
INLINE enum outcome sendmsg(struct bpf_sock_addr *ctx, struct peer *p)
{
	enum outcome o = datagram_to(ctx, p);

	return o == REFUSE && !has_set_retval ? FORBID : o;
}

/* refuse makes the call fail with ECONNREFUSED. Kernels that cannot say so
 * are sent where nobody can listen: TCP port 0, or the port that this node's
 * loopback is not expected to serve. A socket of IPv6 alone knows no other
 * loopback than ::1.
 */
INLINE int refuse(struct peer *p, __u32 proto)
{
	if (has_set_retval) {
		bpf_set_retval(-ECONNREFUSED);
		return 0;
	}
	if (addr_is_v4(&p->asked)) {
		addr_set_v4(&p->given, bpf_htonl(0x7f000001));
	} else {
		__builtin_memset(&p->given, 0, sizeof(p->given));
		p->given.bytes[15] = 1;
	}
	p->given_port = proto == IPPROTO_TCP ? 0 : bpf_htons(1);
	return 1;
}

INLINE void asked4(struct bpf_sock_addr *ctx, struct peer *p)
{
	addr_set_v4(&p->asked, ctx->user_ip4);
	p->asked_port = ctx->user_port;
}

INLINE void asked6(struct bpf_sock_addr *ctx, struct peer *p)
{
	__u32 *w = (__u32 *)p->asked.bytes;

	w[0] = ctx->user_ip6[0];
	w[1] = ctx->user_ip6[1];
	w[2] = ctx->user_ip6[2];
	w[3] = ctx->user_ip6[3];
	p->asked_port = ctx->user_port;
}

/* set4 and set6 name an IPv4 address to the kernel. */
INLINE void set4(struct bpf_sock_addr *ctx, const struct addr *a, __be16 port)
{
	ctx->user_ip4 = addr_v4(a);
	ctx->user_port = port;
}

INLINE void set6(struct bpf_sock_addr *ctx, const struct addr *a, __be16 port)
{
	ctx->user_ip6[0] = addr_word(a, 0);
	ctx->user_ip6[1] = addr_word(a, 1);
	ctx->user_ip6[2] = addr_word(a, 2);
	ctx->user_ip6[3] = addr_word(a, 3);
	ctx->user_port = port;
}

/* translate_call does one call of one family, show_peer the answer of one:
 * the families differ in how they read and write the address and in nothing
 * else.
 */
#define translate_call(family, ctx, how)                                       \
	({                                                                     \
		struct peer p = {};                                            \
		enum outcome o = PASS;                                         \
		int verdict = 1;                                               \
									       \
		if (l4_translated(ctx->protocol)) {                            \
			asked##family(ctx, &p);                                \
			o = how(ctx, &p);                                      \
		}                                                              \
		if (o == FORBID)                                               \
			verdict = 0;                                           \
		if (o == REFUSE)                                               \
			verdict = refuse(&p, ctx->protocol);                   \
		if (o != PASS && verdict)                                      \
			set##family(ctx, &p.given, p.given_port);              \
		verdict;                                                       \
	})

#define show_peer(family, ctx)                                                 \
	({                                                                     \
		struct peer p = {}, *shown;                                    \
									       \
		asked##family(ctx, &p);                                        \
		shown = peer_shown(ctx, &p.asked, p.asked_port);               \
		if (shown)                                                     \
			set##family(ctx, &shown->asked, shown->asked_port);    \
		1;                                                             \
	})

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return translate_call(4, ctx, connect);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate_call(4, ctx, sendmsg);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show_peer(4, ctx);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return show_peer(4, ctx);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return translate_call(6, ctx, connect);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate_call(6, ctx, sendmsg);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show_peer(6, ctx);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return show_peer(6, ctx);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	peer_released(sk);
	return 1;
}

/* tcp_state follows the connections that were translated: the kernel tells of
 * no others, once it was told which.
 */
SEC("sockops")
int tcp_state(struct bpf_sock_ops *ctx)
{
	__u32 flags;

	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB && peer_followed(ctx)) {
		flags = ctx->bpf_sock_ops_cb_flags;
		bpf_sock_ops_cb_flags_set(ctx, flags |
						       BPF_SOCK_OPS_STATE_CB_FLAG);
	}
	if (ctx->op == BPF_SOCK_OPS_STATE_CB &&
	    ctx->args[1] == BPF_TCP_CLOSE)
		peer_closed(ctx);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
