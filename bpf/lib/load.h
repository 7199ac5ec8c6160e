/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * load: how many connected sockets of this node each backend of a service
 * has, where the service chooses by it (SERVICE_LEAST).
 */
#ifndef SKEP_LOAD_H
#define SKEP_LOAD_H

#include "addr.h"

struct load_key {
	struct addr addr; /* of the backend */
	__u32 service;
	__be16 port;
	__u16 pad; /* 0 */
};

/* A row is there while there are sockets, so nobody need clean up. Full: what
 * has no row counts as idle.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct load_key);
	__type(value, __u32); /* sockets */
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} load SEC(".maps");

INLINE struct load_key load_key_of(__u32 service, const struct addr *addr,
				   __be16 port)
{
	return (struct load_key){
		.addr = *addr, .service = service, .port = port};
}

INLINE __u32 load_of(__u32 service, const struct addr *addr, __be16 port)
{
	struct load_key key = load_key_of(service, addr, port);
	__u32 *sockets = bpf_map_lookup_elem(&load, &key);

	return sockets ? *sockets : 0;
}

/* load_add counts a socket. Returns whether there was room to. */
INLINE bool load_add(__u32 service, const struct addr *addr, __be16 port)
{
	struct load_key key = load_key_of(service, addr, port);
	__u32 *sockets = bpf_map_lookup_elem(&load, &key);
	__u32 one = 1;
	int err;

	if (!sockets) {
		err = bpf_map_update_elem(&load, &key, &one, BPF_NOEXIST);
		if (!err)
			return true;
		sockets = bpf_map_lookup_elem(&load, &key);
	}
	if (!sockets)
		return false;
	__sync_fetch_and_add(sockets, 1);
	return true;
}

/* load_remove counts a socket no more. Where another CPU adds one to a row that
 * goes just now, that one is not counted, which lasts no longer than it does.
 */
INLINE void load_remove(__u32 service, const struct addr *addr, __be16 port)
{
	struct load_key key = load_key_of(service, addr, port);
	__u32 *sockets = bpf_map_lookup_elem(&load, &key);

	if (!sockets)
		return;
	if (*sockets > 1)
		__sync_fetch_and_add(sockets, -1);
	else
		bpf_map_delete_elem(&load, &key);
}

#endif
