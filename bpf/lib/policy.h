/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * policy: which flows NetworkPolicies allow. A pod that policies isolate in a
 * direction has a set there, shared by all pods that the same policies select:
 *
 *   endpoint {addr}        -> egress set, ingress set; 0: not isolated
 *   identity {addr}        -> what policies see of a pod: one number for all
 *                             pods of a namespace with the same labels
 *   policy   {set, peer}   -> ports id, for a peer identity, PEER_POD, PEER_ANY
 *   cidr     {set, prefix} -> ports id
 *   ports    {ports id, protocol, port} -> there is a row: allowed
 *
 * There are only allowances: what no row allows is denied. A row includes what
 * the rows of wider peers allow, so of the rows of policy the first that is
 * found decides, and of those of cidr the longest prefix. A pod has both, an
 * address that no pod has the latter or else PEER_ANY. Port ranges are prefixes.
 */
#ifndef SKEP_POLICY_H
#define SKEP_POLICY_H

#include "addr.h"

/* policy_peer: who is at the other end. The identities of pods follow. */
enum policy_peer {
	PEER_ANY = 0,	/* anybody; also addresses that no pod has */
	PEER_HOST = 1,	/* this node's own stack */
	PEER_DNS = 2,	/* cluster DNS, which is on this node */
	PEER_POD = 3,	/* any pod of the cluster */
	PEER_COUNT = 16 /* the first identity of a pod */
};

/* policy_ports: what a peer may reach. The ids of sets of ports follow. */
enum policy_ports {
	PORTS_NONE = 0,
	PORTS_ALL = 1, /* all ports and protocols, ICMP too */
};

#define DNS_PORT 53

/* identity of every pod of the cluster, on all nodes */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, __u32);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} identity SEC(".maps");

struct policy_key {
	__u32 set;
	enum policy_peer peer; /* or an identity */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct policy_key);
	__type(value, enum policy_ports);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} policy SEC(".maps");

/* cidr_key: the bits of set belong to every prefix. */
struct cidr_key {
	__u32 bits; /* 32 + length of the prefix */
	__u32 set;
	struct addr addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct cidr_key);
	__type(value, enum policy_ports);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} cidr SEC(".maps");

/* port_key: the bits of all but the port belong to every prefix. */
struct port_key {
	__u32 bits; /* 48 + length of the prefix */
	__u32 set;
	__u8 proto;
	__u8 pad; /* 0 */
	__be16 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct port_key);
	__type(value, __u32); /* 1 */
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} ports SEC(".maps");

/* question: may the flow be? Its ends are as they are without translation. */
struct question {
	struct addr from; /* who begins it */
	struct addr to;	  /* who answers */
	__be16 port;	  /* of the answering end */
	__u8 proto;
	bool outside; /* it came in from outside: who says to be this node is
		       * not
		       */
	__u32 egress, ingress; /* the sets that were asked; 0: none */
};

INLINE bool policy_port(__u32 set, const struct question *q)
{
	struct port_key key = {
		.bits = 64,
		.set = set,
		.proto = q->proto,
		.port = q->port,
	};

	return set == PORTS_ALL ||
	       (set && bpf_map_lookup_elem(&ports, &key));
}

INLINE __u32 policy_row(__u32 set, __u32 peer)
{
	struct policy_key key = {.set = set, .peer = peer};
	enum policy_ports *row = bpf_map_lookup_elem(&policy, &key);

	return row ? *row : PORTS_NONE;
}

/* policy_allows tells whether a set allows a peer. who is the identity of a
 * pod, PEER_DNS, or PEER_ANY for an address that no pod has. Rows whose ports
 * are PORTS_NONE are not written, but in cidr, where they except.
 */
INLINE bool policy_allows(__u32 set, const struct addr *peer, __u32 who,
			  const struct question *q)
{
	struct cidr_key key = {.bits = 160, .set = set, .addr = *peer};
	enum policy_ports *block;
	__u32 row = PORTS_NONE;

	if (who != PEER_ANY)
		row = policy_row(set, who);
	if (who != PEER_ANY && !row)
		row = policy_row(set, PEER_POD);
	block = bpf_map_lookup_elem(&cidr, &key);
	if (block && policy_port(*block, q))
		return true;
	/* A block that does not allow the port is one that is excepted. */
	if (!row && (who != PEER_ANY || !block))
		row = policy_row(set, PEER_ANY);
	return policy_port(row, q);
}

INLINE __u32 policy_identity(const struct addr *addr)
{
	__u32 *id = bpf_map_lookup_elem(&identity, addr);

	return id ? *id : PEER_ANY;
}

#endif
