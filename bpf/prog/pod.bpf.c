// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
#include "../lib/bpf.h"
#include "../lib/conntrack.h"
#include "../lib/drop.h"
#include "../lib/endpoint.h"
#include "../lib/service.h"

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_OK;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
