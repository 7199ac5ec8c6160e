// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#include "../lib/bpf.h"
#include "../lib/conntrack.h"
#include "../lib/drop.h"
#include "../lib/endpoint.h"
#include "../lib/service.h"

SEC("tc")
int from_net(struct __sk_buff *skb)
{
	drop_count(DROP_MALFORMED, PLACE_FROM_NET, skb->len);
	return TC_ACT_OK;
}

SEC("tc")
int to_net(struct __sk_buff *skb)
{
	drop_count(DROP_MALFORMED, PLACE_TO_NET, skb->len);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
