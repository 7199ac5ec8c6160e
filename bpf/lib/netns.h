/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * netns: whose sockets are translated. The socket programs see every process
 * below the cgroup, also ones in network namespaces that are not this node's:
 * from there a backend's address may lead nowhere, or to somebody else. Their
 * packets are translated where they reach the node.
 */
#ifndef SKEP_NETNS_H
#define SKEP_NETNS_H

#include "addr.h"
#include "config.h"

/* key: the cookie of a network namespace (SO_NETNS_COOKIE), which the kernel
 * never gives out again; value: the address of the pod that has it
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct addr);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} netns SEC(".maps");

/* netns_is_host tells whether the socket lives with the node's own. */
INLINE bool netns_is_host(struct bpf_sock_addr *ctx)
{
	__u64 host = host_netns ? host_netns : bpf_get_netns_cookie(NULL);

	return bpf_get_netns_cookie(ctx) == host;
}

/* netns_client names who opens the socket: the pod's address, or all zero for
 * the node itself. False: the namespace is neither's. Kernels that do not tell
 * user space the cookies have all taken for the node's.
 */
INLINE bool netns_client(struct bpf_sock_addr *ctx, struct addr *client)
{
	__u64 cookie;
	struct addr *pod;

	__builtin_memset(client, 0, sizeof(*client));
	if (!host_netns)
		return true;
	cookie = bpf_get_netns_cookie(ctx);
	if (cookie == host_netns)
		return true;
	pod = bpf_map_lookup_elem(&netns, &cookie);
	if (!pod)
		return false;
	*client = *pod;
	return true;
}

#endif
