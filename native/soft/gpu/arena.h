/* SPDX-License-Identifier: Apache-2.0
 *
 * Device memory of a context. Device addresses are a reserved range that nobody can touch; the
 * bytes lie in a second range of the same shape, `delta` further on. Physical memory comes and goes
 * in granules of 2 MiB; small allocations share granules ("slabs"), as with the driver.
 */
#ifndef HARP_SOFT_ARENA_H
#define HARP_SOFT_ARENA_H

#include "soft/gpu/context.h"

struct soft_block;

struct soft_arena {
    pthread_mutex_t lock; /* guards all below; innermost but for the state lock */
    uint64_t base, bytes; /* device addresses */
    int64_t delta;
    uint8_t *map;              /* per granule: 0 = not there */
    struct soft_block **owner; /* per granule */
    uint64_t granules, hint, used;
    struct soft_block *slabs; /* that have room */
    void *reserved[2];        /* what munmap gets */
    uint64_t reserved_bytes;
};

struct soft_span { /* one allocation, device or host */
    struct soft_ctx *ctx;
    uint64_t start, bytes; /* as the client asked for */
    uint64_t id;           /* unlike any other allocation's in this process */
    char *host;            /* where its bytes are */
    bool device;           /* else pinned host memory */
    bool registered;       /* host memory of the client's own */
    unsigned flags;        /* of host memory */
};

/* The allocation that holds `ptr`, in any context; false: none. */
bool soft_span_find(CUdeviceptr ptr, struct soft_span *span);
/* Is it in a range that only device pointers are in? */
bool soft_is_device_range(uint64_t ptr);
/* hostmem.c */
bool soft_host_find(uint64_t ptr, struct soft_span *span);
void soft_host_forget(struct soft_ctx *ctx);
uint64_t soft_span_next_id(void);

#endif
