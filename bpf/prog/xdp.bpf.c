// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * xdp: on the node's devices, before the kernel makes a buffer of what comes
 * in. front sends on the packets of flows in the table that are bound for
 * another machine: from clients outside to backends on other nodes, and the
 * answers of those. It decides nothing that from_net does not: flows begin, end
 * and are decided anew there, and whatever is unusual about a packet is for it.
 */
#include "../lib/bpf.h"
#include "../lib/config.h"
#include "../lib/transit.h"

SEC("xdp")
int front(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	const struct control *c = control_get();
	struct hop_key way = {.ifindex = ctx->ingress_ifindex};
	struct conntrack_key key;
	struct conntrack *ct;
	__u64 addrs, ports;
	struct plain p;
	struct hop *h;
	__u32 from;

	if (!c || !plain_parse(data, end, &p) || plain_partial(&p))
		return XDP_PASS;
	from = plain_flow(&p, &key);
	ct = bpf_map_lookup_elem(&conntrack, &key);
	if (!ct || ct->epoch != c->epoch || !transit_away(ct, from) ||
	    transit_news(&p, ct, from) || pods_contain(&p.src))
		return XDP_PASS;
	addrs = plain_translate(&p, ct, &ports);
	transit_way(ct, &p, &way);
	h = hop_find(ctx, &way, &p);
	/* Of other devices nobody knows whether they send for XDP. */
	if (!h || h->ifindex != ctx->ingress_ifindex)
		return XDP_PASS;
	transit_seen(ct, c, end - data);
	if (conntrack_translated(ct) &&
	    !plain_write_sum(data, end, &p, addrs + ports))
		return XDP_PASS;
	if (!plain_write(data, end, &p, addrs) || !hop_write(data, end, h))
		return XDP_PASS;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
