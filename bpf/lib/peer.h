/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * peer: what a socket was told about its translated peer, so that recvmsg
 * and getpeername show the Service and not the backend. Kept in the socket
 * itself, so it needs no key and goes when the socket goes.
 */
#ifndef SKEP_PEER_H
#define SKEP_PEER_H

#include "addr.h"

/* peer: the address that the program used, and the one it was given. */
struct peer {
	struct addr asked;
	struct addr given;
	__be16 asked_port;
	__be16 given_port;
	__u32 service;	/* index into service */
	__u32 slot;	/* index of the backend in the service */
	__u32 revision; /* of the service when slot was known good */
};

/* A datagram socket that is not connected may talk to many Services; the
 * last PEERS are remembered.
 */
#define PEERS 8

struct datagram_peers {
	struct peer peer[PEERS];
	__u32 next; /* where the next one goes */
	__u32 pad;
};

/* connected sockets */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct peer);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} peer SEC(".maps");

/* datagram sockets that name a destination each time */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct datagram_peers);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} datagram SEC(".maps");

#endif
