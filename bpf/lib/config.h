/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * config: what user space decides before load. The variables are frozen with
 * the program, so that the verifier knows them and deletes what is not used.
 * Every name is set by datapath/load; the values here are the ones of a node
 * with nothing configured.
 */
#ifndef SKEP_CONFIG_H
#define SKEP_CONFIG_H

#include "addr.h"

#define CONFIG(type, name) volatile const type name

/* Names that end in 6 are for IPv6, the others for IPv4. What is all zero is
 * not used on this node.
 */

/* config_addr reads an address. A cast that forgets volatile would read the
 * value of compile time.
 */
INLINE void config_addr(struct addr *to, const volatile struct addr *from)
{
	const volatile __u32 *w = (const volatile __u32 *)from->bytes;
	__u32 *t = (__u32 *)to->bytes;

	for (int i = 0; i < 4; i++)
		t[i] = w[i];
}

/* The pod addresses of all nodes. Traffic to them is never masqueraded. */
CONFIG(struct network, cluster_network);
CONFIG(struct network, cluster_network6);

/* The pod addresses of this node. An address of it without an endpoint is
 * nobody's, and packets to it are dropped.
 */
CONFIG(struct network, pod_network);
CONFIG(struct network, pod_network6);

/* The addresses of nodes that live within this one and reach the outside
 * through it.
 */
CONFIG(struct network, guest_network);

/* The ClusterIPs. An address of it without a frontend is refused. */
CONFIG(struct network, service_network);
CONFIG(struct network, service_network6);

/* The router address of this node: the source of hairpin traffic. */
CONFIG(struct addr, router_addr);
CONFIG(struct addr, router_addr6);

/* NodePorts, host byte order, both ends included. Only for these ports is
 * the wildcard frontend tried.
 */
CONFIG(__u16, nodeport_min) = 30000;
CONFIG(__u16, nodeport_max) = 32767;

/* Source ports and ICMP ids of masqueraded flows, host byte order, both ends
 * included. Must not overlap the host's net.ipv4.ip_local_port_range nor the
 * NodePorts.
 */
CONFIG(__u16, nat_port_min) = 61000;
CONFIG(__u16, nat_port_max) = 65535;

/* The cookie of the node's network namespace (SO_NETNS_COOKIE); 0: not known,
 * it is taken to be the initial one.
 */
CONFIG(__u64, host_netns) = 0;

/* The kernel has bpf_set_retval (5.18). */
CONFIG(bool, has_set_retval) = false;

INLINE bool cluster_contains(const struct addr *a)
{
	return network_contains(&cluster_network, a) ||
	       network_contains(&cluster_network6, a);
}

INLINE bool pods_contain(const struct addr *a)
{
	return network_contains(&pod_network, a) ||
	       network_contains(&pod_network6, a);
}

INLINE bool guests_contain(const struct addr *a)
{
	return network_contains(&guest_network, a);
}

INLINE bool services_contain(const struct addr *a)
{
	return network_contains(&service_network, a) ||
	       network_contains(&service_network6, a);
}

/* router_of gives the router address of a family. */
INLINE void router_of(struct addr *to, bool v6)
{
	if (v6)
		config_addr(to, &router_addr6);
	else
		config_addr(to, &router_addr);
}

#endif
