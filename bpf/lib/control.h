/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * control: the numbers by which user space speaks to running programs.
 */
#ifndef SKEP_CONTROL_H
#define SKEP_CONTROL_H

#include "bpf.h"

struct control {
	/* Raised after every change that a flow's stored decision may rest on:
	 * an endpoint replaced or removed, a node address added or removed, a
	 * policy that allows less.
	 * A flow of an older epoch decides again at its next packet.
	 */
	__u32 epoch;

	/* The clock of the flow table, raised by the collector at every sweep.
	 * Flows note the generation of their last packet.
	 */
	__u32 generation;

	/* Not 0: policies isolate a pod of this node. */
	__u32 isolation;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct control);
	__uint(max_entries, 1);
} control SEC(".maps");

INLINE const struct control *control_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

#endif
