/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's uapi and libbpf's helper declarations, as every header and
 * program here sees them. No vmlinux.h: the same sources must give the same
 * bytes on any machine.
 */
#ifndef SKEP_BPF_H
#define SKEP_BPF_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define INLINE static __always_inline

/* A function that the verifier checks once, by itself, and not at each call
 * with all that may have come before. On 5.10 it may be given the packet and
 * numbers only; what else it works on is in the scratch map.
 */
#define SEPARATE __noinline

/* errno values: fixed by the ABI of every architecture that skep runs on. */
#define EEXIST 17
#define EINVAL 22
#define ECONNREFUSED 111

#endif
